"""A model as an ONNX file, with what its images need noted inside."""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from system.errors import UserError
from system.files import write_file

OPSET = 17
INPUT = "images"


class Predictor(nn.Module):
    """A backbone and a cluster head, images `[B, 3, side, side]` to probabilities `[B, K]` and features `[B, D]`."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and features."""
        features = self.backbone(images)
        return torch.softmax(self.head(features), dim=1), features


def to_onnx(model: nn.Module, side: int, outputs: Sequence[str] = ("features",)) -> bytes:
    """The graph of a model on the CPU in eval mode, float32 `images` `[B, 3, side, side]` to its `outputs`, any B.

    Raises UserError when the model does something that ONNX has no word for.
    """
    content = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of shapes that become constants: they are, for a side
            torch.onnx.export(
                model.eval(),
                (torch.zeros(2, 3, side, side),),
                content,  # type: ignore[arg-type]  # this exporter takes streams too
                input_names=[INPUT],
                output_names=list(outputs),
                dynamic_axes={name: {0: "batch"} for name in (INPUT, *outputs)},
                opset_version=OPSET,
                dynamo=False,  # the newer exporter needs another package and takes ten times as long
            )
    except Exception as error:  # of the tracer, an operator, the size of a file: they have no common type
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"this model cannot be written as ONNX ({reason}); use it with PyTorch") from error
    return content.getvalue()


def export_onnx(
    path: Path | str, model: nn.Module, side: int, outputs: Sequence[str], facts: Mapping[str, Any]
) -> None:
    """Write a model as FILE.onnx that needs nothing else.

    `facts` say what an image goes through before it, and whatever else is to be known; they stand in the file's
    metadata, each value as JSON. Raises UserError when the model cannot be written as ONNX or the file cannot be
    written.
    """
    try:
        import onnx
    except ImportError as error:
        raise UserError("--export needs the package onnx: pip install onnx") from error
    file = onnx.load_from_string(to_onnx(model, side, outputs))
    for key, value in facts.items():
        file.metadata_props.add(key=key, value=json.dumps(value))
    onnx.checker.check_model(file)
    content = file.SerializeToString()
    write_file(path, lambda stream: stream.write(content), num_bytes=len(content), record=False)


def start_session(content: bytes) -> Any:
    """An onnxruntime session on the CPU, one thread inside an operator; raises ImportError where it is missing."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
