"""Features at speed are the features: every form of the engine against the plain backbone."""

import importlib.util
import json
import platform
import sys
from dataclasses import asdict

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from models import engine
from models.engine import Choice, Engine, candidates
from models.fold import fold_batchnorm
from models.pretrained import build_pretrained
from models.resnet_cifar import resnet8
from system.errors import UserError

FORMS = [("torch", "fp32"), ("torch", "bf16"), ("onnxruntime", "fp32")]


def drawn(network):
    """A network whose BatchNorm has seen something, so that folding it wrong shows."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.3)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 2)
    return network.eval()


def small(name="test_efficientnet.r160_in1k"):
    return drawn(timm.create_model(name, pretrained=False, num_classes=0))


def images(number, side=64):
    return torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(3))


def cosine(network, found, given):
    with torch.no_grad():
        return functional.cosine_similarity(found, network(given)).min().item()


@pytest.mark.parametrize(("library", "precision"), FORMS)
@pytest.mark.parametrize("name", ["test_efficientnet.r160_in1k", "test_resnet.r160_in1k", "test_convnext.r160_in1k"])
def test_features_are_the_backbones(name, library, precision):
    network = small(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = Engine(network, 64, choices=[Choice(library, precision, 2, 4)])(images(10))
    assert found.dtype == torch.float32 and not found.requires_grad and not found.is_inference()
    # bf16 has 8 bits, which these random networks of few channels feel more than trained ones do.
    assert cosine(network, found, images(10)) > (0.998 if precision == "bf16" else 1 - 1e-5)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_the_installed_networks_keep_their_features_to_a_cosine_of_one_thousandth():
    network = build_pretrained("efficientnet_lite0", side=64)["backbone"]
    picked = Engine(network, 64)
    assert cosine(network, picked(images(4)), images(4)) > 0.999
    assert picked.choice.precision == "fp32"  # bf16 turns them by up to a hundredth


@pytest.mark.parametrize(("library", "precision"), FORMS)
def test_the_same_bits_with_every_number_of_threads_and_the_same_features_in_every_batch(library, precision):
    network = small()
    one, two = (Engine(network, 64, choices=[Choice(library, precision, threads, 4)]) for threads in (1, 2))
    whole = one(images(11))
    assert torch.equal(two(images(11)), whole)
    parts = torch.cat([one(part) for part in images(11).split(3)])
    assert torch.allclose(parts, whole, atol=0.05 if precision == "bf16" else 1e-5)


def test_the_threads_of_the_process_stay_as_many():
    before = torch.get_num_threads()
    found = Engine(small(), 64, choices=[Choice("torch", "fp32", 2, 4)])
    found(images(5))
    assert torch.get_num_threads() == before
    assert set(found._pool.map(lambda _: torch.get_num_threads(), range(8))) == {1}


def test_features_can_be_trained_on():
    features = Engine(small(), 64)(images(3))
    head = nn.Linear(features.shape[1], 2)
    head(features).sum().backward()
    assert head.weight.grad.abs().sum() > 0


def test_bf16_is_refused_where_it_turns_the_features():
    """A feature that is the small difference of two large numbers, which 8 bits do not hold."""

    class Difference(nn.Module):
        def forward(self, images):
            return (images + 100).mean((2, 3)) - 100 + torch.tensor([0.1, 0.0, -0.1], dtype=images.dtype)

    fp32 = Choice("torch", "fp32", 1, 4)
    choices = [Choice("torch", "bf16", 1, 4), fp32]
    assert Engine(Difference(), 16, choices=choices).choice == fp32
    assert Engine(nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten()), 16, choices=choices).choice == choices[0]


def test_a_network_that_onnx_has_no_word_for_goes_on_in_torch():
    class Foreign(nn.Module):
        def forward(self, images):
            return torch.special.bessel_j0(images).mean((2, 3))

    fp32 = Choice("torch", "fp32", 1, 4)
    found = Engine(Foreign(), 16, choices=[Choice("onnxruntime", "fp32", 1, 4), fp32])
    assert found.choice == fp32
    assert cosine(Foreign(), found(images(3, 16)), images(3, 16)) > 1 - 1e-6


def test_a_kept_choice_without_onnxruntime_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnxruntime is not installed.*pip install onnxruntime"):
        Engine(small(), 64, choices=[Choice("onnxruntime", "fp32", 1, 4)])


@pytest.mark.parametrize(
    ("has_bf16", "has_onnxruntime", "forms"),
    [
        (True, True, ["torch bf16", "onnxruntime fp32", "torch fp32"]),
        (False, True, ["onnxruntime fp32", "torch fp32"]),
        (False, False, ["torch fp32"]),
    ],
)
def test_candidates_follow_from_the_machine(has_bf16, has_onnxruntime, forms, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if has_onnxruntime else None)
    found = candidates(torch.device("cpu"), 128)
    assert [f"{choice.library} {choice.precision}" for choice in found] == forms
    assert all(choice.threads == torch.get_num_threads() for choice in found)
    assert all(
        large.pass_images < normal.pass_images
        for large, normal in zip(candidates(torch.device("cpu"), 256), found, strict=True)
    )


def test_onnxruntime_comes_before_bf16_where_convolutions_are_depthwise(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    found = candidates(torch.device("cpu"), 128, depthwise=True)
    assert [f"{choice.library} {choice.precision}" for choice in found] == [
        "onnxruntime fp32",
        "torch bf16",
        "torch fp32",
    ]
    assert engine.has_depthwise(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)))
    assert not engine.has_depthwise(nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(1, 4, 3)))


def test_a_choice_comes_back_from_a_record():
    choice = candidates(torch.device("cpu"), 128)[0]
    assert Choice(**json.loads(json.dumps(asdict(choice)))) == choice


@pytest.mark.parametrize("build", [lambda: resnet8()["backbone"], small, lambda: small("test_resnet.r160_in1k")])
def test_every_batchnorm_behind_a_convolution_is_folded(build):
    network = drawn(build())
    folded = fold_batchnorm(network, images(1))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        assert torch.allclose(folded(images(3)), network(images(3)), atol=1e-4, rtol=1e-3)


def test_a_batchnorm_that_follows_something_else_stays():
    class Before(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, images):
            return self.norm(self.convolution(images).relu()).mean((2, 3))

    network = drawn(Before())
    assert isinstance(fold_batchnorm(network, images(1)).norm, nn.BatchNorm2d)


def test_a_fold_that_changes_the_features_is_left_out():
    class Twice(nn.Module):
        """Reads a convolution's output twice, once past its BatchNorm."""

        def __init__(self):
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, images):
            made = self.convolution(images)
            return torch.cat([made, self.norm(made)], 1).mean((2, 3))

    network = drawn(Twice())
    found = Engine(network, 16, choices=[Choice("torch", "fp32", 1, 4)])
    assert cosine(network, found(images(3, 16)), images(3, 16)) > 1 - 1e-6
