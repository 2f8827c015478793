"""IIC's networks: sizes as published, edges by hand, heads of two kinds on one backbone."""

import torch
from torch.nn import functional as F

from models import build_backbone
from models.iic import Sobel, TwoHeads
from models.models import ClusteringModel


def test_the_small_network_flattens_to_4608():
    built = build_backbone("iic_cnn")
    assert built["dim"] == 4608
    with torch.no_grad():
        assert built["backbone"](torch.rand(2, 3, 24, 24)).shape == (2, 4608)
    convolutions = [m for m in built["backbone"].modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64, 128, 256, 512]
    assert {m.kernel_size for m in convolutions} == {(5, 5)}


def test_edges_are_differences_of_gray():
    ramp = torch.arange(6.0).expand(1, 3, 5, 6)  # brighter to the right
    found = Sobel()(ramp)
    assert found.shape == ramp.shape
    inner = found[..., 1:-1, 1:-1]
    torch.testing.assert_close(inner[:, 0], torch.full((1, 3, 4), 8.0), rtol=1e-3, atol=1e-3)  # 2 · (1 + 2 + 1)
    assert inner[:, 1].abs().max() < 1e-5
    assert not found[:, 2].any()
    turned = Sobel()(ramp.transpose(2, 3))[..., 1:-1, 1:-1]
    assert turned[:, 0].abs().max() < 1e-5
    torch.testing.assert_close(turned[:, 1].abs(), torch.full((1, 4, 3), 8.0), rtol=1e-3, atol=1e-3)


def test_any_backbone_takes_edges():
    built = build_backbone("sobel/resnet34", "stl", 4)
    assert built["dim"] == 32
    blocks = [len(getattr(built["backbone"][1], f"layer{i}")) for i in (1, 2, 3, 4)]
    assert blocks == [3, 4, 6, 3]
    built["backbone"].eval()
    with torch.no_grad():
        assert built["backbone"](torch.rand(2, 3, 32, 32)).shape == (2, 32)
    assert all("edges" not in key and "gray" not in key for key in built["backbone"].state_dict())


def test_both_kinds_of_heads_see_the_same_features():
    clustering = ClusteringModel(build_backbone("resnet8", "cifar", width=2), 3, 2).eval()
    model = TwoHeads(clustering, 7, 3).eval()
    images = torch.rand(4, 3, 8, 8)
    outputs = model(images)
    assert [output.shape[1] for output in outputs] == [7, 7, 7, 3, 3]
    for one, other in zip(outputs[3:], clustering(images), strict=True):
        torch.testing.assert_close(one, other)
    features = clustering.backbone(images)
    expected = F.linear(features, model.over_head[1].weight, model.over_head[1].bias)
    torch.testing.assert_close(outputs[1], expected)
