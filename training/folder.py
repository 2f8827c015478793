"""A run's folder: one process at a time, one config, and a record of everything that was done."""

import contextlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from pydantic import BaseModel, ConfigDict, FiniteFloat

from system import distributed, files, owned
from system.bounded import read_json
from system.console import say, warn
from system.errors import ConfigError, UserError
from system.lock import lock_folder
from system.yaml_file import load_yaml
from training import checkpoint
from training.board import EVENTS, FOLDER

CONFIG, RECORD, METRICS = "config.yml", "run.json", "metrics.jsonl"
MODEL = "model.pth.tar"
FIRST = (checkpoint.NEWEST, checkpoint.PREVIOUS, MODEL)
"""What a run could continue from: when a folder is cleared, it goes first."""
PER_SPLIT = ("topk-{}-neighbors.npy", "features-{}.npy", "neighbors-{}.png", "purity-{}.png", "images-{}.npy")
KEPT = (
    *(*FIRST, "model-best.pth.tar", METRICS, RECORD, CONFIG),
    *(form.format(split) for split in ("train", "val") for form in PER_SPLIT),
)
"""What a run leaves in its folder without being asked; a file of the user's of such a name stops it at its start."""
WRITTEN = (*KEPT, "confusion_matrix.png", "prototypes.png", "report.html", "trace.json")
"""All that this program may write into a run's folder, besides its list and TensorBoard's files."""


PATHS = ("_dir", "_checkpoint", "_model", "_path")
"""How keys end that say where results are."""
EARLIER = {"stream": "auto", "on_bad_image": "error"}
"""Defaults that earlier versions wrote for every data set, also for those without such options."""


def to_plain(value: Any) -> Any:
    """An EasyDict (or any nest) as plain dicts and lists, for YAML, JSON and comparison."""
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):  # an empty one says nothing
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


class Images(Protocol):
    """A run's folders of images: whether they are still what they were."""

    @property
    def keys(self) -> Collection[str]:
        """Dotted keys of the config that only say where the images are."""

    def changes(self, folder: Path, finished: bool = False) -> str:
        """How they differ from what is noted in a run folder, in words; empty when they do not."""

    def note(self, folder: Path, again: bool) -> None:
        """Note in a run folder what they are now."""

    def are_those_of(self, folder: Path, old: Mapping[str, Any]) -> bool:
        """Whether they are the images of the run in a folder, whose config is `old`."""


@dataclass(frozen=True)
class Keys:
    """What is known of a config: which keys only say how a run is carried out, and what absent ones mean."""

    carried_out: Collection[str] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    images: Images | None = None
    """The run's folders of images, whose keys do not count where they hold the same images."""
    has_model: bool = True
    """Whether a finished run leaves a model; of one without, the record alone says that it is finished."""
    growing: Collection[str] = ()
    """Numbers with which a run goes on where they are larger than before, even when it was finished."""


def differing_keys(old: dict[str, Any], new: dict[str, Any], keys: Keys) -> list[str]:
    """Dotted keys in which two configs say different things about what is computed; paths of results do not count."""

    def computed(config: dict[str, Any]) -> dict[str, Any]:
        whole = {**keys.defaults, **config}
        kept = {key: value for key, value in whole.items() if key not in keys.carried_out}
        flat = _flatten({key: value for key, value in kept.items() if not key.endswith(PATHS)})
        # A cache changes what images are like, but not where it is.
        flat |= {key: bool(value) or None for key, value in flat.items() if key.endswith("_db_kwargs.cache_dir")}
        return {key: value for key, value in flat.items() if EARLIER.get(key.partition("_db_kwargs.")[2]) != value}

    a, b = computed(old), computed(new)
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


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


def is_run(folder: Path) -> bool:
    """Whether a run of this program, of whatever version, left its record or config in a folder."""
    with contextlib.suppress(UserError):
        if CONFIG in files.names_of(folder):
            return True
    readers: tuple[tuple[str, set[str], Callable[[Path], dict[str, Any]]], ...] = (
        (RECORD, {"status", "stage"}, lambda path: read_json(path, dict[str, Any])),
        (CONFIG, {"setup", "root_dir"}, load_yaml),
    )
    for name, keys, read in readers:
        with contextlib.suppress(OSError, UserError):
            if not (folder / name).is_symlink() and keys <= read(folder / name).keys():
                return True
    return False


def adopt(folder: Path, again: bool = False) -> None:
    """List what an earlier version wrote into a run's folder; `again` also where the list is damaged."""
    board = folder / FOLDER
    if is_run(folder):
        owned.adopt(folder, WRITTEN, again)
        if board.is_dir() and not board.is_symlink():
            owned.adopt(board, [path.name for path in board.glob(EVENTS)], again)


class RunFolder:
    """The folder of one run; only rank 0 has one."""

    def __init__(self, folder: Path, config: dict[str, Any], keys: Keys) -> None:
        self.folder, self.config, self.keys = folder, config, keys

    def open(self) -> dict[str, Any] | None:
        """Take the folder for this config; returns the run's result when it was finished before.

        Raises UserError when another process holds the folder or it cannot be made, ConfigError when it holds a run
        with another config.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.make_ready(locked=lock_folder(self.folder))
            if self.config["overwrite"]:
                self.clear()
        except OSError as error:
            raise UserError(f"cannot use the run folder {self.folder}: {error.strerror}; set root_dir") from error
        grown = self._compare()
        result = read_finished(self.folder)
        model = self.folder / MODEL
        finished = result is not None and (model.exists() or not self.keys.has_model)
        if finished and self.keys.has_model:
            files.verify_file(model)
        self._check_images(finished)
        if finished and not grown:
            return result
        self.write_config(self.config)
        return None

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.yml."""
        self.config = config
        files.write_text(self.folder / CONFIG, yaml.safe_dump(self._relative(), sort_keys=False), record=True)

    @property
    def _has_begun(self) -> bool:
        without_model = not self.keys.has_model and read_finished(self.folder) is not None
        return without_model or any((self.folder / name).exists() for name in FIRST)

    def _check_images(self, finished: bool) -> None:
        """Raise UserError when the images are no longer those that the run began with; note them when it begins."""
        if self.keys.images is None:
            return
        found = self.keys.images.changes(self.folder, finished) if self._has_begun else ""
        if found:
            raise UserError(
                f"the images changed since the run in {self.folder} began ({found}); put them back, or keep this run "
                "and start another one with run_name=NAME, or start this one again with overwrite=true"
            )
        if not finished:
            self.keys.images.note(self.folder, again=not self._has_begun)

    def without_moves(self, old: Mapping[str, Any], differing: list[str]) -> list[str]:
        """Without keys that say where the images are, when these hold the same images as in the config `old`."""
        images = self.keys.images
        if images is None or not set(differing) & set(images.keys) or not images.are_those_of(self.folder, old):
            return differing
        return [key for key in differing if key not in images.keys]

    def _relative(self) -> dict[str, Any]:
        """The config with paths in the results' folder relative to the run's folder, so that both may be moved."""
        root = Path(self.config["root_dir"]).absolute()

        def relative(key: str, value: Any) -> Any:
            if isinstance(value, dict):
                return {name: relative(name, inner) for name, inner in value.items()}
            if isinstance(value, str) and key.endswith(PATHS) and Path(value).absolute().is_relative_to(root):
                return os.path.relpath(value, self.folder)
            return value

        return relative("", self.config)

    def _compare(self) -> bool:
        """Raise ConfigError where the run that is there has another config; returns whether it has grown since."""
        path = self.folder / CONFIG
        if not path.exists() or not self._has_begun:
            return False  # a run that kept nothing yet has nothing to lose
        advice = f"delete {CONFIG} to continue with the config given now, or start again with overwrite=true"
        try:
            files.verify_file(path)
            old = load_yaml(path)
        except ConfigError as error:
            raise UserError(f"{path} is damaged ({error}); {advice}") from error
        except UserError as error:
            raise UserError(f"{error}; {advice}") from error
        differing = differing_keys(old, self.config, self.keys)
        differing = self.without_moves(old, differing)
        grown = [key for key in differing if key in self.keys.growing and old[key] < self.config[key]]
        differing = [key for key in differing if key not in grown]
        if differing:
            raise ConfigError(
                f"{self.folder} holds a run with another config: {', '.join(differing)} differ"
                f"{'s' * (len(differing) == 1)}; run_name=NAME keeps this one apart, overwrite=true starts again"
            )
        for key in ("device", "precision"):
            if old.get(key) != self.config[key]:
                say(f"this run began with {key}={old.get(key)} and continues with {key}={self.config[key]}")
        return bool(grown)

    def make_ready(self, locked: bool) -> None:
        """Make sure that what will be written replaces no file of the user's; remove what a killed run left.

        `locked` says that no other process can be at work here. Raises UserError where a file of the user's stands
        in the way.
        """
        adopt(self.folder, again=self.config["overwrite"])
        owned.require_own(self.folder, KEPT)
        owned.adopt(self.folder, ())
        files.remove_temporaries(self.folder, KEPT if locked else ())

    def clear(self) -> None:
        """Remove what runs wrote here, and nothing else; raises UserError when the folder is reached through a link."""
        owned.require_no_link(
            self.folder, Path(self.config["root_dir"]), "name the folder that it leads to, with root_dir=DIR"
        )
        owned.clear(self.folder, FIRST)
        owned.adopt(self.folder, ())  # an empty list: what comes from here on is listed, or the user's
        owned.clear(self.folder / FOLDER)
        owned.remove_if_empty(self.folder / FOLDER)

    def write_record(self, **facts: Any) -> None:
        """Write run.json: the facts given, the command, commit and versions."""
        record = {
            **facts,
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "ranks": distributed.world_size(),
            "commit": git_commit(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }
        files.write_text(self.folder / RECORD, json.dumps(record, indent=1) + "\n", record=True)

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Write metrics.jsonl again, whole; a killed run may have left lines that come after its last checkpoint."""
        files.write_text(self.folder / METRICS, "".join(json.dumps(line) + "\n" for line in lines), listed=True)


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
