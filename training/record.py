"""run.json: how a run stands, how long it took, what it found, and by which code."""

import contextlib
import json
import math
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat

from system import distributed, files
from system.bounded import read_json
from system.console import warn
from system.errors import UserError

RECORD = "run.json"


class Result(BaseModel):
    """What every reader of a finished run's result relies on: the types of the keys that it has."""

    model_config = ConfigDict(extra="allow", strict=True)

    loss: float = math.nan
    best_loss: float = math.nan
    best_epoch: int = 0
    scan_loss: float = math.nan
    last_loss: float = math.nan
    purity_train: dict[str, float] = {}
    purity_val: dict[str, float] = {}
    acc: float = math.nan
    nmi: float = math.nan
    ari: float = math.nan
    ami: float = math.nan
    top5: float = math.nan
    acc_many_to_one: float = math.nan
    matching: list[list[int]] = []


class Record(BaseModel):
    """What every reader of run.json relies on."""

    model_config = ConfigDict(extra="allow", strict=True)

    status: str
    seconds: FiniteFloat
    result: Result | None = None
    device: str | None = None
    precision: str | None = None
    commit: str | None = None
    versions: dict[str, str] | None = None


def read_record(folder: Path) -> dict[str, Any]:
    """The contents of a run folder's run.json; empty when it is missing, and with a warning when it is damaged."""
    path = folder / RECORD
    try:
        files.verify_file(path)
        return read_json(path, Record)
    except FileNotFoundError:
        return {}
    except UserError:
        warn(f"{path} is damaged; what it says is left out")
        return {}


def read_finished(folder: Path) -> dict[str, Any] | None:
    """The result of a run that was finished; None for any other, and when its record is damaged."""
    record = read_record(folder)
    finished = record.get("status") == "finished" and isinstance(record.get("result"), dict)
    return record["result"] if finished else None


def write_record(folder: Path, **facts: Any) -> None:
    """Write a run folder's run.json: the facts given, the command, commit and versions."""
    record = {
        **facts,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "ranks": distributed.world_size(),
        "commit": git_commit(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    files.write_text(folder / RECORD, json.dumps(record, indent=1) + "\n", record=True)


def git_commit(repository: Path = files.REPOSITORY) -> str | None:
    """The commit of a repository, this code's, with `-dirty` when files were changed; None outside a repository.

    A benchmark's result files are no code: what one run has written there does not make the next one dirty.
    """
    git = ["git", "-C", str(repository)]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit, changes = (
            subprocess.run([*git, *words], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
            for words in (
                ("rev-parse", "--short=12", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"),
            )
        )
        return f"{commit}-dirty" if changes else commit
    return None
