"""IIC and UCC over several processes: the gradients of a step are those of one."""

import pytest
import torch

from losses import CRITERIA
from methods import iic, ucc
from models import build_backbone
from models.iic import TwoHeads
from models.models import ClusteringModel
from models.ucc import UCCModel
from tests.distributed.steps import DOUBLE, assert_same_on_all, gradients, own, prepare
from tests.distributed.test_distributed import BATCH, images

pytestmark = pytest.mark.slow


def informed(trained):
    torch.manual_seed(3)
    clustering = ClusteringModel(build_backbone("sobel/resnet8", "cifar", width=4), 3, 2)
    model = TwoHeads(clustering, 5, 2).to(DOUBLE)
    forward = prepare(model)  # held until the gradients are there
    views = [own(images(seed, DOUBLE)) for seed in (0, 1, 2)]
    loss, losses, _ = iic.step(forward, CRITERIA["iic"](), trained, *views)
    loss.backward()
    return gradients(model) | {"loss": loss.detach(), "losses": losses}


def counted():
    torch.manual_seed(3)
    model = UCCModel(build_backbone("ucc/8", width=2)["backbone"], 2, 4).to(DOUBLE)
    forward = prepare(model)
    counts = torch.arange(BATCH // 2) % 4
    loss, right = ucc.step(forward, CRITERIA["ucc"](), own(images(0, DOUBLE)), counts)
    loss.backward()
    return gradients(model) | {"loss": loss.detach(), "right": right.double()}


CASES = {
    "iic, heads A": lambda: informed(slice(0, 2)),
    "iic, heads B": lambda: informed(slice(2, None)),
    "ucc": counted,
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_that_of_one_process(ranks, name):
    assert_same_on_all(ranks, name, CASES[name]())


def test_only_the_heads_of_a_pass_learn():
    for name, idle in (("iic, heads A", "clustering.cluster_head"), ("iic, heads B", "over_head")):
        for key, value in CASES[name]().items():
            if key.startswith(idle):
                assert not value.any()
            elif "weight" in key:
                assert value.any(), key
