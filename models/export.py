"""A model as an ONNX file, with what its images need noted inside."""

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from system.errors import UserError
from system.files import write_file

OPSET = 17
INPUT = "images"


class _OneOutput(nn.Module):
    """A model that returns one tensor where it returned a list of one, as a ClusteringModel of one head does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.model(images)
        if isinstance(outputs, list) and len(outputs) == 1:
            return outputs[0]
        return outputs


def to_onnx(model: nn.Module, side: int, output: str = "features") -> bytes:
    """The graph of a model on the CPU in eval mode, float32 `images` `[B, 3, side, side]` to `output`, any B.

    Raises UserError when the model does something that ONNX has no word for.
    """
    content = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of shapes that become constants: they are, for a side
            torch.onnx.export(
                _OneOutput(model).eval(),
                (torch.zeros(2, 3, side, side),),
                content,  # type: ignore[arg-type]  # this exporter takes streams too
                input_names=[INPUT],
                output_names=[output],
                dynamic_axes={INPUT: {0: "batch"}, output: {0: "batch"}},
                opset_version=OPSET,
                dynamo=False,  # the newer exporter needs another package and takes ten times as long
            )
    except Exception as error:  # of the tracer, an operator, the size of a file: they have no common type
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"this model cannot be written as ONNX ({reason}); use it with PyTorch") from error
    return content.getvalue()


def export_onnx(
    path: Path | str, model: nn.Module, side: int, preprocessing: Mapping[str, Any], output: str = "logits"
) -> None:
    """Write a model, backbone and head, as FILE.onnx that needs nothing else.

    `preprocessing` says what an image goes through before it (side, mean, std, interpolation, crop, …) and whatever
    else is to be known; it stands in the file's metadata, each value as JSON. Raises UserError when the model cannot
    be written as ONNX or the file cannot be written.
    """
    import onnx

    file = onnx.load_from_string(to_onnx(model, side, output))
    for key, value in {"input": "RGB / 255, normalised, [batch, 3, side, side]", "side": side, **preprocessing}.items():
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
