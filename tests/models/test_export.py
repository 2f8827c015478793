"""A model as an ONNX file, and what onnxruntime makes of it."""

import json

import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import nn

from models.export import export_onnx, to_onnx
from models.models import ClusteringModel
from models.pretrained import build_pretrained
from system.errors import UserError


def run(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})[0]


@pytest.mark.parametrize("batch", [1, 5])
def test_outputs_are_the_models(tmp_path, batch):
    built = build_pretrained("efficientnet_lite0", side=64)
    model = nn.Sequential(built["backbone"], nn.Linear(built["dim"], 7)).eval()
    export_onnx(tmp_path / "model.onnx", model, 64, {})
    images = torch.randn(batch, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
    assert run(tmp_path / "model.onnx", images) == pytest.approx(expected.numpy(), abs=1e-4)


def test_a_clustering_model_of_one_head_gives_its_logits(tmp_path):
    network = timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=0)
    model = ClusteringModel({"backbone": network, "dim": network.num_features}, 4, 1).eval()
    export_onnx(tmp_path / "model.onnx", model, 32, {})
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)[0]
    assert run(tmp_path / "model.onnx", images) == pytest.approx(expected.numpy(), abs=1e-5)


def test_the_file_says_what_its_images_need(tmp_path):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    facts = {"mean": [0.5, 0.5, 0.5], "interpolation": "bicubic", "crop": 0.875, "clusters": ["a", "b"]}
    export_onnx(tmp_path / "model.onnx", model, 16, facts)
    file = onnx.load(tmp_path / "model.onnx")
    noted = {entry.key: json.loads(entry.value) for entry in file.metadata_props}
    assert noted.items() >= {"side": 16, **facts}.items()
    assert [entry.name for entry in (*file.graph.input, *file.graph.output)] == ["images", "logits"]


def test_what_onnx_cannot_say_is_one_sentence():
    class Foreign(nn.Module):
        def forward(self, images):
            return torch.special.bessel_j0(images)

    with pytest.raises(UserError, match=r"cannot be written as ONNX \(.*bessel"):
        to_onnx(Foreign(), 16)
