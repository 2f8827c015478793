"""run.json: how a run stands, how long it took, what it found, and by which code."""

import contextlib
import json
import math
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat

from system import distributed, files
from system.bounded import read_json
from system.console import warn
from system.errors import UserError
from system.runtime import Runtime, describe

RECORD = "run.json"
NOTED = ("images", "engine")  # what is recorded when it is known; null before


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


def read_network(pretext: Path) -> dict[str, Any]:
    """What the pretext run in a folder noted of the pretrained network that it used; empty when it used none."""
    return (read_record(pretext).get("result") or {}).get("backbone") or {}


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


class RunRecord:
    """run.json of a run that is at work, and the seconds that it has taken over all its continuations.

    Only rank 0 writes it.
    """

    def __init__(self, folder: Path, stage: str, runtime: Runtime) -> None:
        self.folder, self.stage, self.runtime = folder, stage, runtime
        self.seconds_before = 0.0
        """Those that earlier continuations took."""
        self._noted: dict[str, Any] = {}
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds so far."""
        return self.seconds_before + time.monotonic() - self._started

    def open(self, keeps_precision: bool) -> None:
        """Take over what an interrupted run recorded, where that is wanted its precision, too, and record that it runs.

        What a run of an earlier version did not record, it does not record later either.
        """
        old = read_record(self.folder)
        if keeps_precision:
            self.runtime.continue_in(old.get("precision"))
        self._noted = {key: old.get(key) for key in NOTED if key in old or not old}
        self.seconds_before = old.get("seconds", 0.0)
        self.write("running")

    def note(self, **facts: Any) -> None:
        """Record more: `images`, how they are read, or `engine`, how features of a pretrained network are computed."""
        if facts.keys() <= self._noted.keys() and self._noted != self._noted | facts:
            self._noted |= facts
            self.write("running")

    def write(self, status: str, result: dict[str, Any] | None = None) -> None:
        """Write how the run stands, and what came out."""
        write_record(
            self.folder,
            status=status,
            stage=self.stage,
            seconds=round(self.seconds, 3),
            device=describe(self.runtime.device),
            precision=str(self.runtime.training).removeprefix("torch."),
            result=result,
            **self._noted,
        )


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
