from typing import Literal, get_args

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from models import BACKBONES, build_backbone, resnet, resnet_cifar, resnet_stl, takes_stem
from models.models import ClusteringModel, ContrastiveModel
from system.errors import ConfigError
from system.sections import section_of


def resnet18_keys():
    """The published names in the published order of registration, written out here."""
    batchnorm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    keys = ["conv1.weight", *(f"bn1.{name}" for name in batchnorm)]
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            for number in (1, 2):
                keys.append(f"layer{layer}.{block}.conv{number}.weight")
                keys += [f"layer{layer}.{block}.bn{number}.{name}" for name in batchnorm]
            if layer > 1 and block == 0:
                keys.append(f"layer{layer}.{block}.shortcut.0.weight")
                keys += [f"layer{layer}.{block}.shortcut.1.{name}" for name in batchnorm]
    return keys


@pytest.mark.parametrize("module", [resnet_cifar, resnet_stl])
def test_resnet18_has_the_published_keys_in_the_published_order(module):
    described = module.resnet18()
    backbone = described["backbone"]
    assert described["dim"] == 512
    assert list(backbone.state_dict()) == resnet18_keys()
    # An optimizer state knows parameters by their place alone.
    parameters = [key for key in resnet18_keys() if key.endswith(("weight", "bias"))]
    assert [name for name, _ in backbone.named_parameters()] == parameters
    shapes = {name: tuple(parameter.shape) for name, parameter in backbone.named_parameters()}
    assert shapes["conv1.weight"] == (64, 3, 3, 3)
    assert shapes["layer2.0.conv1.weight"] == (128, 64, 3, 3)
    assert shapes["layer2.0.shortcut.0.weight"] == (128, 64, 1, 1)
    assert shapes["layer4.1.conv2.weight"] == (512, 512, 3, 3)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 11_168_832


def test_models_name_their_parts_as_published():
    mlp = ContrastiveModel(build_backbone("resnet8", "cifar"))
    keys = [key for key in mlp.state_dict() if not key.startswith("backbone.")]
    assert keys == [f"contrastive_head.{i}.{name}" for i in (0, 2) for name in ("weight", "bias")]
    assert mlp.contrastive_head[0].weight.shape == (64, 64)
    assert mlp.contrastive_head[2].weight.shape == (128, 64)
    linear = ContrastiveModel(build_backbone("resnet8", "cifar"), head="linear", features_dim=7)
    keys = [key for key in linear.state_dict() if not key.startswith("backbone.")]
    assert keys == ["contrastive_head.weight", "contrastive_head.bias"]
    assert linear.contrastive_head.weight.shape == (7, 64)
    clustering = ClusteringModel(build_backbone("resnet8", "cifar"), nclusters=5, nheads=2)
    keys = [key for key in clustering.state_dict() if not key.startswith("backbone.")]
    assert keys == [f"cluster_head.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")]


def published_forward(backbone, images, pool):
    """ResNet-18 in eval mode, step by step from its state_dict."""
    state = backbone.state_dict()

    def convolve(x, key, stride):
        kernel = state[f"{key}.weight"]
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def normalize(x, key):
        mean, var, weight, bias = (
            state[f"{key}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5) ** 0.5 * weight + bias

    x = F.relu(normalize(convolve(images, "conv1", 1), "bn1"))
    if pool:
        x = F.max_pool2d(x, kernel_size=2, stride=2, padding=1)
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            key = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            out = F.relu(normalize(convolve(x, f"{key}.conv1", stride), f"{key}.bn1"))
            out = normalize(convolve(out, f"{key}.conv2", 1), f"{key}.bn2")
            if layer > 1 and block == 0:
                x = normalize(convolve(x, f"{key}.shortcut.0", stride), f"{key}.shortcut.1")
            x = F.relu(out + x)
    side = 7 if pool else 4
    assert x.shape[2:] == (side, side)
    return F.avg_pool2d(x, side).flatten(1)


@pytest.mark.parametrize(("module", "size"), [(resnet_cifar, 32), (resnet_stl, 96)])
def test_resnet18_computes_what_is_published(module, size):
    torch.manual_seed(0)
    backbone = module.resnet18(width=8)["backbone"].double().eval()
    for buffer in (b for name, b in backbone.named_buffers() if "running" in name):
        buffer.uniform_(0.5, 1.5)
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        expected = published_forward(backbone, images, pool=module is resnet_stl)
        torch.testing.assert_close(backbone(images), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "stem", "size", "dim"), [
    ("resnet8", "cifar", 16, 64), ("resnet8", "cifar_s2", 16, 64), ("resnet20", "cifar", 32, 64),
    ("resnet18", "cifar_s2", 32, 512), ("resnet18", "stl", 64, 512), ("resnet18", "stl", 100, 512),
    ("resnet18", "imagenet", 64, 512), ("resnet50", "imagenet", 64, 2048),
])  # fmt: skip
def test_features_of_every_combination(name, stem, size, dim):
    described = build_backbone(name, stem)
    assert described["dim"] == dim
    with torch.no_grad():
        assert described["backbone"].eval()(torch.randn(1, 3, size, size)).shape == (1, dim)


def test_depth_and_width_of_the_small_family():
    for name, depth in (("resnet8", 8), ("resnet20", 20)):
        backbone = build_backbone(name, "cifar")["backbone"]
        convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert len(convolutions) + 1 == depth  # the last layer is the head
        assert sorted({m.out_channels for m in convolutions}) == [16, 32, 64]
    wide = build_backbone("resnet20", "cifar", width=64)
    assert wide["dim"] == 256
    assert wide["backbone"].layer2[0].conv1.weight.shape == (128, 64, 3, 3)


def test_stride_of_the_second_stem():
    sizes = []
    backbone = build_backbone("resnet8", "cifar_s2")["backbone"]
    backbone.layer1.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[2:]))
    backbone(torch.randn(2, 3, 16, 16))
    assert sizes == [(8, 8)]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_large_networks_compute_what_torchvisions_do(name):
    torch.manual_seed(0)
    reference = getattr(torchvision.models, name)(weights=None).eval()
    reference.fc = nn.Identity()
    backbone = getattr(resnet, name)()["backbone"].eval()
    assert list(backbone.state_dict()) == list(reference.state_dict())
    backbone.load_state_dict(reference.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), reference(images))


@pytest.mark.parametrize(("arguments", "words"), [
    (("resnet19", "cifar"), "backbone is 'resnet19', but must be one of resnet8, resnet18, resnet20, resnet34"),
    (("resnet50", "cifar"), "backbone 'resnet50': stem is cifar; it should be 'imagenet'"),
    (("resnet20", "imagenet"), "stem is imagenet; it should be 'cifar', 'cifar_s2' or 'stl'"),
    (("resnet18", "tiny"), "stem is tiny; it should be 'cifar', 'cifar_s2', 'stl' or 'imagenet'"),
    (("resnet50", "imagenet", 32), "unknown key 'width'; resnet50 takes stem"),
    (("resnet18", "imagenet", 32), "the stem imagenet comes in one width; remove width"),
    (("resnet8", "cifar", 0), "width is 0; it should be greater than or equal to 1"),
    (("resnet8", "cifar", 10**6), "width is 1000000; it should be less than or equal to 1024"),
])  # fmt: skip
def test_combinations_that_do_not_exist(arguments, words):
    with pytest.raises(ConfigError) as error:
        build_backbone(*arguments)
    assert words in str(error.value)


def test_every_entry_of_the_table_builds():
    with torch.device("meta"):
        for name in [name for name in BACKBONES if not name.endswith("/") and takes_stem(name)]:
            stems = get_args(section_of(BACKBONES[name]).model_fields["stem"].annotation)
            assert stems
            assert all(build_backbone(name, stem)["dim"] > 0 for stem in stems)


def test_contrastive_features_are_unit_vectors():
    torch.manual_seed(0)
    model = ContrastiveModel(build_backbone("resnet8", "cifar"), features_dim=6).double().eval()
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        features = model(images)
        first, second = model.contrastive_head[0], model.contrastive_head[2]
        hidden = (model.backbone(images) @ first.weight.T + first.bias).clamp(min=0)
        expected = hidden @ second.weight.T + second.bias
    torch.testing.assert_close(features, expected / (expected**2).sum(1, keepdim=True).sqrt())
    assert features.dtype == torch.float64


def test_contrastive_features_are_float32_under_bfloat16():
    model = ContrastiveModel(build_backbone("resnet8", "cifar")).bfloat16().eval()
    features = model(torch.randn(2, 3, 16, 16, dtype=torch.bfloat16))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2), rtol=0, atol=1e-6)


def test_clustering_forward_passes():
    torch.manual_seed(0)
    model = ClusteringModel(build_backbone("resnet8", "cifar"), nclusters=5, nheads=2).eval()
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        features = model(images, forward_pass="backbone")
        expected = [features @ head.weight.T + head.bias for head in model.cluster_head]
        everything = model(images, forward_pass="return_all")
        assert features.shape == (3, 64)
        assert set(everything) == {"features", "output"}
        assert torch.equal(everything["features"], features)
        for logits in (model(images), model(features, forward_pass="head"), everything["output"]):
            assert [tuple(x.shape) for x in logits] == [(3, 5), (3, 5)]
            torch.testing.assert_close(logits, expected)
        with pytest.raises(ValueError, match="all"):
            model(images, forward_pass="everything")


def test_heads_that_do_not_exist():
    with pytest.raises(ConfigError, match="linear, mlp"):
        ContrastiveModel(build_backbone("resnet8", "cifar"), head="conv")
    with pytest.raises(ConfigError, match="must be at least 1"):
        ClusteringModel(build_backbone("resnet8", "cifar"), nclusters=0)
    with pytest.raises(ConfigError, match="must be at least 1"):
        ClusteringModel(build_backbone("resnet8", "cifar"), nclusters=3, nheads=0)


def test_a_kind_of_backbones_takes_what_follows_its_prefix(monkeypatch):
    def named(name: str, /, width: Literal[1, 2] = 1):
        return {"backbone": nn.Identity(), "dim": len(name) * width}

    monkeypatch.setitem(BACKBONES, "kind/", named)
    assert build_backbone("kind/abc")["dim"] == 3
    assert build_backbone("kind/a/b", width=2)["dim"] == 6
    assert not takes_stem("kind/abc")
    with pytest.raises(ConfigError, match=r"width is 3; it should be 1 or 2"):
        build_backbone("kind/abc", width=3)
    with pytest.raises(ConfigError, match=r"unknown key 'stem'; kind/abc takes width"):
        build_backbone("kind/abc", "cifar")
    for name in ("kind/", "kinds/abc", "/abc"):
        with pytest.raises(ConfigError, match=r"must be one of .*, kind/NAME; is it '"):
            build_backbone(name)
