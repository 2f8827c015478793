"""Tensors from the processor to a device in one copy that the processor does not wait for.

A copy from ordinary memory makes the host wait until the GPU has done everything it was asked to before: with a few
small tensors a step, the GPU runs dry between steps. From pinned memory it does not.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes; of any tensor in a packed buffer, at least what compiled kernels expect of their inputs

Layout = Sequence[tuple[str, int, torch.dtype, torch.Size]]


def pack(tensors: Mapping[str, Tensor], pinned: bool = False) -> tuple[Tensor, Layout]:
    """Copy CPU tensors into one buffer uint8 `[n]`; returns it and where each is: name, offset, dtype, shape."""
    layout, end = [], 0
    for name, tensor in tensors.items():
        layout.append((name, end, tensor.dtype, tensor.shape))
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    buffer = torch.empty(end, dtype=torch.uint8, pin_memory=pinned)
    for name, view in unpack(buffer, layout).items():
        view.copy_(tensors[name])
    return buffer, layout


def unpack(buffer: Tensor, layout: Layout) -> dict[str, Tensor]:
    """The tensors of a packed buffer, in its memory, on its device."""
    return {
        # Detached, for torch.compile treats what calls itself a view with more care than these need.
        name: buffer[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape).detach()
        for name, start, dtype, shape in layout
    }


def send_all(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """CPU tensors on a device, under the same names; to a GPU in one copy."""
    if device.type != "cuda" or not tensors:
        return {name: tensor.to(device) for name, tensor in tensors.items()}
    buffer, layout = pack(tensors, pinned=True)
    return unpack(buffer.to(device, non_blocking=True), layout)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """One tensor on a device; what is there already stays as it is."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
