import copy

import pytest
import torch

from models.finetune import train_last, training_mode
from models.models import ClusteringModel, SideBySide
from models.pretrained import build_pretrained
from system.errors import ConfigError


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return build_pretrained("timm/resnet10t.c3_in1k", load=False)


def test_only_the_last_groups_of_layers_change_and_statistics_stay(backbone):
    model = ClusteringModel(backbone, 3)
    train_last(model.backbone, 1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    training_mode(model, pretrained=True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(2, 3, 64, 64))[0].square().sum().backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    starts = {".".join(key.split(".")[:2]) for key in changed}
    assert starts == {"backbone.layer4", "cluster_head.0"}
    assert not any("running" in key or "num_batches" in key for key in changed)


def test_networks_side_by_side_each_change_their_last_groups(backbone):
    pair = SideBySide([copy.deepcopy(backbone["backbone"]) for _ in range(2)])
    train_last(pair, 1)
    trained = {".".join(name.split(".")[:3]) for name, value in pair.named_parameters() if value.requires_grad}
    assert trained == {"networks.0.layer4", "networks.1.layer4"}


def test_a_last_group_of_norms_changes_with_the_stage_before_it():
    network = build_pretrained("timm/convnext_atto.d2_in1k", side=64, load=False)["backbone"]
    train_last(network, 1)
    trained = {".".join(name.split(".")[:2]) for name, value in network.named_parameters() if value.requires_grad}
    assert trained == {"stages.3", "head.norm"}


def test_other_backbones_have_no_groups(backbone):
    with pytest.raises(ConfigError, match="pretrained backbones that tell their groups of layers, and Linear tells"):
        train_last(torch.nn.Linear(2, 2), 1)
    assert backbone["facts"].grouped
    assert not build_pretrained("timm/poolformer_s12.sail_in1k", side=64, load=False)["facts"].grouped
