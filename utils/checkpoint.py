"""Resumable checkpoints: the last two are kept, a damaged one is noticed and the one before takes its place."""

from pathlib import Path
from typing import Any

import torch

from utils import files
from utils.console import warn
from utils.errors import UserError

NEWEST, PREVIOUS = "checkpoint.pth.tar", "checkpoint-previous.pth.tar"
FORMAT = 1


def num_bytes(state: Any) -> int:
    """Bytes of all tensors in a nest of mappings and lists."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(num_bytes(value) for value in state.values())
    return sum(num_bytes(value) for value in state) if isinstance(state, list | tuple) else 0


def save_weights(path: Path | str, state: Any, **facts: Any) -> None:
    """Save a model file for other stages (and for plain `torch.load`), with its checksum recorded."""
    files.write_file(path, lambda file: torch.save(state, file), num_bytes=num_bytes(state) + 2**16, **facts)


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write a new newest checkpoint; what was newest becomes the previous one.

    The previous one is a second name of the same bytes until the newest is replaced, so that at no instant fewer than
    one whole checkpoint is there.
    """
    newest = folder / NEWEST
    if newest.exists():
        files.duplicate(newest, folder / PREVIOUS)
    save_weights(newest, {"format": FORMAT, **state})


def load(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that verifies, or None when there is none; raises UserError when none of them does."""
    damaged: list[str] = []
    for name in (NEWEST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            state = _read(path)
        except UserError as error:
            damaged.append(str(error))
            continue
        if damaged:
            warn(f"{damaged[0]}; going on from {path.name}, epoch {state['epoch']}")
        return state
    if damaged:
        raise UserError(f"{damaged[0]}; no earlier checkpoint can take its place; overwrite=true starts again")
    return None


def _read(path: Path) -> dict[str, Any]:
    if files.verify_file(path) is None:
        raise UserError(
            f"{path} was not written by a run of this project; use it with --model, move it away, or start anew with "
            "overwrite=true"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state.get("format") != FORMAT:
        raise UserError(f"{path} has the format {state.get('format')}; this version reads {FORMAT}")
    return state
