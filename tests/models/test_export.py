"""A model as an ONNX file, and what onnxruntime makes of it."""

import json

import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import nn

from models.export import Predictor, export_onnx, to_onnx
from models.heads import build_head
from models.pretrained import build_pretrained
from system.errors import UserError

OUTPUTS = ("probabilities", "features")
OPTIONS = {"temi": {"hidden": 8, "bottleneck": 4}}
OPTIONS["vote"] = {"heads": [{"head": name, "dims": [6], "num_clusters": 4} for name in ("linear", "kmeans", "turtle")]}


def run(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(OUTPUTS)
    return session.run(None, {"images": images.numpy()})


def assert_same(path, model, images):
    with torch.no_grad():
        expected = model(images)
    for found, output in zip(run(path, images), expected, strict=True):
        assert found == pytest.approx(output.numpy(), abs=1e-4)


def drawn(module):
    """Every number of a head drawn anew, so that nothing is the zeros and ones that it begins with."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.dtype == torch.float32:
                value.uniform_(0.5, 1.5) if "std" in name or "temperature" in name else value.normal_()
    return module.eval()


def test_outputs_are_the_models_for_any_number_of_images(tmp_path):
    built = build_pretrained("efficientnet_lite0", side=64)
    model = Predictor(built["backbone"], nn.Linear(built["dim"], 7)).eval()
    export_onnx(tmp_path / "model.onnx", model, 64, OUTPUTS, {})
    for batch in (1, 5):
        assert_same(tmp_path / "model.onnx", model, torch.randn(batch, 3, 64, 64))


@pytest.mark.parametrize("name", ["linear", "kmeans", "temi", "turtle", "vote"])
def test_every_head_is_written(tmp_path, name):
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = drawn(build_head(name, dims=[6], num_clusters=4, **OPTIONS.get(name, {})))
    if name == "vote":
        head.order.copy_(torch.tensor([[0, 1, 2, 3], [3, 1, 0, 2], [1, 2, 3, 0]]))
    model = Predictor(drawn(backbone), head).eval()
    export_onnx(tmp_path / "model.onnx", model, 8, OUTPUTS, {})
    images = torch.randn(6, 3, 8, 8)
    assert_same(tmp_path / "model.onnx", model, images)
    probabilities = run(tmp_path / "model.onnx", images)[0]
    assert probabilities.sum(1) == pytest.approx(1, abs=1e-5) and probabilities.std() > 0.05


def test_a_transformer_is_written(tmp_path):
    network = timm.create_model("test_vit.r160_in1k", pretrained=False, num_classes=0, img_size=32)
    model = Predictor(network, nn.Linear(network.num_features, 3)).eval()
    export_onnx(tmp_path / "model.onnx", model, 32, OUTPUTS, {})
    assert_same(tmp_path / "model.onnx", model, torch.randn(3, 3, 32, 32))


def test_the_file_says_what_its_images_need(tmp_path):
    model = Predictor(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(3, 2))
    facts = {"side": 16, "mean": [0.5, 0.5, 0.5], "preparation": [{"resize": 16}]}
    export_onnx(tmp_path / "model.onnx", model, 16, OUTPUTS, facts)
    file = onnx.load(tmp_path / "model.onnx")
    assert {entry.key: json.loads(entry.value) for entry in file.metadata_props} == facts
    assert [entry.name for entry in (*file.graph.input, *file.graph.output)] == ["images", *OUTPUTS]


def test_what_onnx_cannot_say_is_one_sentence():
    class Foreign(nn.Module):
        def forward(self, images):
            return torch.special.bessel_j0(images)

    with pytest.raises(UserError, match=r"cannot be written as ONNX \(.*bessel"):
        to_onnx(Foreign(), 16)
