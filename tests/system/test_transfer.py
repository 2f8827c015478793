"""Packed transfers: what comes out is what went in, and compiled code takes it."""

import pytest
import torch

from system import transfer


def test_every_dtype_and_shape_survives():
    tensors = {
        "flags": torch.tensor([True, False, True]),
        "codes": torch.arange(7),
        "empty": torch.empty(3, 0, 2, dtype=torch.int64),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "strided": torch.randn(4, 6).T,
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    buffer, layout = transfer.pack(tensors)
    found = transfer.unpack(buffer, layout)
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
        assert found[name].numel() == 0 or found[name].data_ptr() % 16 == buffer.data_ptr() % 16


def test_nothing_to_send():
    assert transfer.send_all({}, torch.device("cpu")) == {}


def test_on_the_processor_nothing_is_copied():
    tensors = {"x": torch.randn(3)}
    assert transfer.send_all(tensors, torch.device("cpu"))["x"] is tensors["x"]
    assert transfer.send(tensors["x"], torch.device("cpu")) is tensors["x"]


@pytest.mark.parametrize("times", [3])
def test_compiled_code_sees_equal_inputs_in_new_buffers(times):
    compilations = []

    def backend(graph, inputs):
        compilations.append(len(inputs))
        return graph.forward

    compiled = torch.compile(lambda x, flags: torch.where(flags, x, 0.0).sum(), dynamic=False, backend=backend)
    for _ in range(times):
        tensors = {"flags": torch.rand(5) < 0.5, "x": torch.randn(5)}
        found = transfer.unpack(*transfer.pack(tensors))
        assert compiled(found["x"], found["flags"]) == torch.where(tensors["flags"], tensors["x"], 0.0).sum()
    assert len(compilations) == 1
