"""The parts of other pretext tasks, worked out by hand."""

import numpy as np
import pytest
import torch

from data.augment.padded import PaddedCrop
from data.dataset import ImageDataset
from methods.instdisc import draw_noise
from methods.rotnet import quarter_turns
from methods.supervised import choose_labeled, require_labels
from models import build_backbone
from models.byol import OnlineNetwork
from models.models import ContrastiveModel, LayerFeatures
from system.errors import ConfigError
from training.ema import follow, rising_momentum
from training.memory_bank import MemoryBank


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_turns_are_those_of_numpy():
    images = torch.randn(3, 2, 5, 5, generator=seeded(0))
    turned = quarter_turns(images)
    assert turned.shape == (3, 4, 2, 5, 5)
    for turn in range(4):
        assert np.array_equal(turned[:, turn].numpy(), np.rot90(images.numpy(), turn, (2, 3)))


def test_a_bank_after_two_steps_by_hand():
    bank = MemoryBank(3, 2, 0.5, seeded(0))
    bank.vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    bank.update(torch.tensor([1]), torch.tensor([[1.0, 0.0]]))  # halfway, at length 1
    assert torch.allclose(bank.vectors, torch.tensor([[1.0, 0.0], [0.5**0.5, 0.5**0.5], [0.6, 0.8]]))
    bank.update(torch.tensor([2, 0]), torch.tensor([[0.6, -0.8], [1.0, 0.0]]))
    assert torch.allclose(bank.vectors, torch.tensor([[1.0, 0.0], [0.5**0.5, 0.5**0.5], [1.0, 0.0]]))


def test_a_bank_starts_uniform_with_a_norm_of_about_1():
    vectors = MemoryBank(4000, 128, 0.5, seeded(0)).vectors
    span = (3 / 128) ** 0.5
    assert float(vectors.abs().max()) <= span
    assert float(vectors.abs().max()) > 0.999 * span
    assert float(vectors.norm(dim=1).mean()) == pytest.approx(1, abs=0.01)
    assert float(vectors.mean()) == pytest.approx(0, abs=1e-3)


def test_a_bank_comes_back_from_its_state():
    bank, other = MemoryBank(5, 3, 0.5, seeded(0)), MemoryBank(5, 3, 0.5, seeded(1))
    other.load_state_dict(bank.state_dict())
    assert other.scale is None
    bank.scale = torch.tensor(7.0)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.vectors, bank.vectors)
    assert other.scale == 7


def test_noise_hangs_on_its_place_alone():
    noise = draw_noise(50, 8, 30, 0, "instdisc", 2, 1)
    assert noise.shape == (8, 30)
    assert int(noise.min()) >= 0
    assert int(noise.max()) <= 49
    assert torch.equal(noise, draw_noise(50, 8, 30, 0, "instdisc", 2, 1))
    assert not torch.equal(noise, draw_noise(50, 8, 30, 0, "instdisc", 1, 2))
    assert draw_noise(50, 8, 0, 0) is None


def test_a_fraction_of_every_class():
    targets = torch.tensor([0] * 10 + [1] * 5 + [2] + [-1] * 4)[torch.randperm(20, generator=seeded(0))]
    rows = choose_labeled(targets, 0.4, 0, "supervised")
    assert torch.equal(targets[rows].bincount(), torch.tensor([4, 2, 1]))
    assert torch.equal(rows, rows.unique())
    assert torch.equal(rows, choose_labeled(targets, 0.4, 0, "supervised"))
    assert not torch.equal(rows, choose_labeled(targets, 0.4, 1, "supervised"))
    assert set(rows.tolist()) <= set(choose_labeled(targets, 0.8, 0, "supervised").tolist())
    assert torch.equal(choose_labeled(targets, 1.0, 0), (targets >= 0).nonzero()[:, 0])


def test_classes_without_an_image_are_warned_of(capsys):
    targets = torch.tensor([0, 2, -1])
    dataset = ImageDataset("toy", torch.zeros(3, 3, 4, 4, dtype=torch.uint8), targets, ["a", "b", "c"], ["1", "2", "3"])
    require_labels(dataset, 4)
    assert capsys.readouterr().err == (
        "warning: there is no labeled training image of 2 classes, which are never predicted: b, 3\n"
    )
    dataset.targets[2] = 1
    require_labels(dataset, 3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("name", "stem", "layers"), [("resnet8", "cifar", 3), ("resnet18", "imagenet", 4)])
def test_the_features_of_a_layer_are_its_pooled_output(name, stem, layers):
    network = build_backbone(name, stem)["backbone"].eval()
    images = torch.randn(2, 3, 64, 64, generator=seeded(0))
    with torch.no_grad():
        last = LayerFeatures(network, f"layer{layers}")
        assert torch.allclose(last(images), network(images), atol=1e-5)
        assert last.num_dims == network(images).shape[1]
        layer2 = LayerFeatures(network, "layer2")
        assert layer2(images).shape == (2, layer2.num_dims)
        assert layer2.num_dims == last.num_dims // 2 ** (layers - 2)
    with pytest.raises(ConfigError, match="mine_features is layer9, but the backbone's layers are layer1, layer2"):
        LayerFeatures(network, "layer9")


def test_a_crop_of_the_padded_image():
    images = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    strategy = PaddedCrop(4, {"mean": [0.0] * 3, "std": [1 / 255] * 3}, padding=1)
    corner = strategy.apply(images, {"position": torch.tensor([[0.0, 0.999]]), "flip": torch.tensor([False])})
    assert corner[0, 0].round().tolist() == [[0, 0, 0, 0], [2, 3, 4, 0], [6, 7, 8, 0], [10, 11, 12, 0]]
    middle = strategy.apply(images, {"position": torch.tensor([[0.5, 0.5]]), "flip": torch.tensor([True])})
    assert middle[0, 0, 0].round().tolist() == [4, 3, 2, 1]


def test_a_target_follows_and_its_momentum_rises():
    assert [rising_momentum(0.9, step, 4) for step in (0, 2, 4)] == pytest.approx([0.9, 0.95, 1.0])
    model = ContrastiveModel(build_backbone("resnet8", "cifar", 4), "mlp-batchnorm", 3)
    online = OnlineNetwork(model, 3)
    before = {name: value.clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        for parameter in online.parameters():
            parameter += 1
    follow(model, online, 0.75)
    for name, value in model.named_parameters():
        assert torch.allclose(value, before[name] + 0.25, atol=1e-6), name
