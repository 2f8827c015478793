"""Resumable checkpoints: the last two are kept, a damaged one is noticed and the one before takes its place."""

from pathlib import Path
from typing import Any

import torch

from system import files
from system.console import warn
from system.errors import UserError
from system.pickles import load_untrusted, write_torch

NEWEST, PREVIOUS = "checkpoint.pth.tar", "checkpoint-previous.pth.tar"
FORMAT = 2
TYPES: dict[str, type] = {
    "epoch": int, "step": int, "num_steps": int, "seconds": float, "values": dict, "metrics": str,
    "totals": dict, "scaler": dict, "model": dict, "optimizer": dict,
}  # fmt: skip
"""What every checkpoint holds."""


def num_bytes(state: Any) -> int:
    """Bytes of all tensors in a nest of mappings and lists."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(num_bytes(value) for value in state.values())
    return sum(num_bytes(value) for value in state) if isinstance(state, list | tuple) else 0


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write a new newest checkpoint; what was newest becomes the previous one."""
    write_torch(folder / NEWEST, {"format": FORMAT, **state}, keep=PREVIOUS)


def load(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that verifies, or None when there is none; raises UserError when none of them does.

    A damaged newest one is removed once the one before it is known to be good, so that it never takes its place.
    """
    newest, previous = folder / NEWEST, folder / PREVIOUS
    if not newest.exists():
        return _read(previous) if previous.exists() else None
    try:
        return _read(newest)
    except UserError as error:
        if not previous.exists():
            raise UserError(f"{error}; there is no earlier checkpoint; overwrite=true starts again") from error
        try:
            state = _read(previous)
        except UserError as other:
            raise UserError(f"{error}; neither is the one before it ({other}); overwrite=true starts again") from other
        warn(f"{error}; continuing from {PREVIOUS} (epoch {state['epoch'] + 1}, step {state['step'] + 1}) instead")
        files.remove(newest)
        return state


def _read(path: Path) -> dict[str, Any]:
    recorded = files.verify_file(path) is not None
    state = load_untrusted(path, verified=recorded)
    if not isinstance(state, dict) or "format" not in state:
        raise UserError(f"{path} was not written by a run of this project; use it with --model, or move it away")
    if state["format"] != FORMAT:
        raise UserError(
            f"{path} has the format {state['format']!r}; this version reads {FORMAT}; use the one that wrote it"
        )
    for key, kind in TYPES.items():
        value = state.get(key)
        if not isinstance(value, kind) or (isinstance(value, int) and value < 0):
            raise UserError(
                f"{path} is not usable: its '{key}' is {type(value).__name__}, not what a run writes; move it away"
            )
    if not recorded:
        warn(f"{path} has no recorded checksum; it is used as it is")
    return state


def check_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Raise ValueError unless every tensor of an optimizer's state is a number or has the shape of its parameter."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.numel() != 1 and value.shape != parameters[number].shape:
                raise ValueError(f"the optimizer's {name} of parameter {number} is of shape {list(value.shape)}")
