"""A run's folder: one process at a time, one config, and only what this program wrote is ever replaced."""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from system import files, owned
from system.bounded import read_json
from system.console import say, warn
from system.errors import ConfigError, UserError
from system.lock import lock_folder
from system.paths import expand_path, usable
from system.yaml_file import load_yaml
from training import checkpoint
from training.board import EVENTS, FOLDER
from training.comparison import Keys, differing_keys, map_paths
from training.record import RECORD, read_finished

CONFIG, METRICS = "config.yml", "metrics.jsonl"
START = "start"  # what is noted with the config: the checksum of the model that the run began with
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


def _checksum(start: Path | None) -> str | None:
    with contextlib.suppress(UserError):  # a damaged list; whoever needs the model says so
        return files.recorded_checksum(start) if start else None
    return None


def _noted_start(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(UserError):
        noted = files.verify_file(folder / CONFIG) if (folder / CONFIG).exists() else None
        return {START: noted[START]} if noted and START in noted else {}
    return {}


def began_with_another(folder: Path, start: Path | None) -> bool:
    """Whether the model that the run in a folder started from, now at `start`, has changed since."""
    noted, now = _noted_start(folder).get(START), _checksum(start)
    return None not in (noted, now) and noted != now


class RunFolder:
    """The folder of one run; only rank 0 has one."""

    def __init__(self, folder: Path, config: dict[str, Any], keys: Keys) -> None:
        self.folder, self.config, self.keys = folder, config, keys
        self._start: dict[str, Any] = {}  # the checksum of the model that the run began with

    def open(self) -> dict[str, Any] | None:
        """Take the folder for this config; returns the run's result when it was finished before.

        Raises UserError when another process holds the folder or it cannot be made, ConfigError when it holds a run
        with another config.
        """
        with usable(self.folder, "set root_dir"):
            self.make_ready(locked=lock_folder(self.folder))
            if self.config["overwrite"]:
                self.clear()
        grown = self._refuse_another()
        self._check_start()
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
        text = yaml.safe_dump(self._relative(), sort_keys=False)
        files.write_text(self.folder / CONFIG, text, record=True, **self._start)

    @property
    def has_begun(self) -> bool:
        """Whether a run left something here that it could continue from or that is its result."""
        without_model = not self.keys.has_model and read_finished(self.folder) is not None
        return without_model or any((self.folder / name).exists() for name in FIRST)

    def _check_start(self) -> None:
        """Warn where the model that the run started from was trained again since; note which one it is."""
        if not self.has_begun:
            now = _checksum(self.keys.start)
            self._start = {START: now} if now else {}
            return
        self._start = _noted_start(self.folder)
        if began_with_another(self.folder, self.keys.start):
            warn(
                f"{self.keys.start} has changed since the run in {self.folder} began with it; move that folder away to "
                "start the run again"
            )

    def _check_images(self, finished: bool) -> None:
        """Raise UserError when the images are no longer those that the run began with; note them when it begins."""
        if self.keys.images is None:
            return
        found = self.keys.images.changes(self.folder, finished) if self.has_begun else ""
        if found:
            raise UserError(
                f"the images changed since the run in {self.folder} began ({found}); put them back, or keep this run "
                "and start another one with run_name=NAME, or start this one again with overwrite=true"
            )
        if not finished:
            self.keys.images.note(self.folder, again=not self.has_begun)

    def _without_moves(self, old: Mapping[str, Any], differing: list[str]) -> list[str]:
        """Without keys that say where the images are, when these hold the same images as in the config `old`."""
        images = self.keys.images
        if images is None or not set(differing) & set(images.keys) or not images.are_those_of(self.folder, old):
            return differing
        return [key for key in differing if key not in images.keys]

    def _relative(self) -> dict[str, Any]:
        """The config with paths in the results' folder relative to the run's folder, so that both may be moved."""
        root = Path(self.config["root_dir"]).absolute()

        def relative(path: str) -> str:
            whole = Path(expand_path(path)).absolute()
            return os.path.relpath(whole, self.folder) if whole.is_relative_to(root) else str(whole)

        return map_paths(self.config, relative)

    def compare(self, old: dict[str, Any]) -> tuple[list[str], list[str]]:
        """Keys in which a run of the config `old` here is another one, and those with which it would only go on."""
        differing = self._without_moves(old, differing_keys(old, self.config, self.keys))
        grown = [key for key in differing if key in self.keys.growing and old[key] < self.config[key]]
        return [key for key in differing if key not in grown], grown

    def _refuse_another(self) -> bool:
        """Raise ConfigError where the run that is there has another config; returns whether it has grown since."""
        path = self.folder / CONFIG
        if not path.exists() or not self.has_begun:
            return False  # a run that kept nothing yet has nothing to lose
        advice = f"delete {CONFIG} to continue with the config given now, or start again with overwrite=true"
        try:
            files.verify_file(path)
            old = load_yaml(path)
        except ConfigError as error:
            raise UserError(f"{path} is damaged ({error}); {advice}") from error
        except UserError as error:
            raise UserError(f"{error}; {advice}") from error
        differing, grown = self.compare(old)
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

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Write metrics.jsonl again, whole; a killed run may have left lines that come after its last checkpoint."""
        files.write_text(self.folder / METRICS, "".join(json.dumps(line) + "\n" for line in lines), listed=True)
