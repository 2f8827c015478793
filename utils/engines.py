"""Pretrained backbones in the form that computes fastest, which a run chooses once and later commands keep."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from models.engine import Choice, Engine
from models.pretrained import is_pretrained
from system.console import warn
from training.record import RECORD, read_record
from training.run import Run
from utils.common_config import get_crop_size


def prepare(p: Any, backbone: nn.Module, folder: Path, device: torch.device) -> nn.Module:
    """A config's pretrained backbone as an `Engine`, as the run in `folder` has it; any other backbone as it is."""
    if not is_pretrained(p.get("backbone") or ""):
        return backbone
    return Engine(backbone, get_crop_size(p), device, recorded_choices(folder, device))


def note(run: Run, backbone: nn.Module) -> None:
    """Have a run record how its backbone computes features, where that was chosen."""
    if isinstance(backbone, Engine):
        run.note(engine=asdict(backbone.choice))


def recorded_choices(folder: Path, device: torch.device) -> list[Choice]:
    """The one choice that the run in a folder recorded, with the threads of this process, on which no bit depends.

    Empty where nothing is recorded, or what was chosen for another kind of device; a damaged record is warned of.
    """
    recorded = read_record(folder).get("engine")
    try:
        choice = None if recorded is None else TypeAdapter(Choice).validate_python(recorded)
    except ValidationError:
        warn(f"{folder / RECORD} does not say how features are computed; it is chosen again")
        return []
    if choice is None or choice.device != device.type:
        return []
    return [replace(choice, threads=torch.get_num_threads()) if device.type == "cpu" else choice]
