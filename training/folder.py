"""A run's folder: one process at a time, one config, and a record from which everything can be told."""

import contextlib
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from system import distributed, files
from system.console import say, warn
from system.errors import ConfigError, UserError
from system.lock import lock_folder
from training import checkpoint

CONFIG, RECORD, METRICS = "config.yml", "run.json", "metrics.jsonl"
MODEL = "model.pth.tar"
WRITTEN = (
    *(checkpoint.NEWEST, checkpoint.PREVIOUS, MODEL, "model-best.pth.tar", "topk-*-neighbors.npy", "features-*.npy"),
    *("neighbors-*.png", "purity-*.png", "confusion_matrix.png", "prototypes.png", "report.html", "trace.json"),
    *(METRICS, RECORD, CONFIG, files.MANIFEST),
)
"""What runs leave in their folder, in the order in which it may go: first what a run could go on from."""


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


@dataclass(frozen=True)
class Keys:
    """What is known of a config's keys: which only say how a run is carried out, and what absent ones mean."""

    carried_out: Collection[str] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


def differing_keys(old: dict[str, Any], new: dict[str, Any], keys: Keys) -> list[str]:
    """Dotted keys in which two configs say different things about what is computed; paths of results do not count."""

    def computed(config: dict[str, Any]) -> dict[str, Any]:
        whole = {**keys.defaults, **config}
        kept = {key: value for key, value in whole.items() if key not in keys.carried_out}
        paths = ("_dir", "_checkpoint", "_model", "_path")
        flat = _flatten({key: value for key, value in kept.items() if not key.endswith(paths)})
        return {key: value for key, value in flat.items() if EARLIER.get(key.partition("_db_kwargs.")[2]) != value}

    a, b = computed(old), computed(new)
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def read_record(folder: Path) -> dict[str, Any]:
    """The contents of a run folder's run.json; empty when it is missing, and with a warning when it is damaged."""
    path = folder / RECORD
    try:
        files.verify_file(path)
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError
        return record
    except FileNotFoundError:
        return {}
    except (UserError, OSError, ValueError):
        warn(f"{path} is damaged; what it says is left out")
        return {}


def read_finished(folder: Path) -> dict[str, Any] | None:
    """The result of a run that was finished; None for any other, and when its record is damaged."""
    record = read_record(folder)
    finished = record.get("status") == "finished" and isinstance(record.get("result"), dict)
    return record["result"] if finished else None


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
            lock_folder(self.folder)
            files.remove_temporaries(self.folder)
            if self.config["overwrite"]:
                self.clear()
        except OSError as error:
            raise UserError(f"cannot use the run folder {self.folder}: {error.strerror}; set root_dir") from error
        self._compare()
        result = read_finished(self.folder)
        model = self.folder / MODEL
        if result is not None and model.exists():
            files.verify_file(model)
            return result
        self.write_config(self.config)
        return None

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.yml."""
        self.config = config
        files.write_text(self.folder / CONFIG, yaml.safe_dump(config, sort_keys=False), record=True)

    def _compare(self) -> None:
        path = self.folder / CONFIG
        kept = (checkpoint.NEWEST, checkpoint.PREVIOUS, MODEL)
        if not path.exists() or not any((self.folder / name).exists() for name in kept):
            return  # a run that kept nothing yet has nothing to lose
        advice = f"delete {CONFIG} to go on with the config given now, or start again with overwrite=true"
        try:
            files.verify_file(path)
            old = yaml.safe_load(path.read_text(encoding="utf-8"))
            differing = differing_keys(old, self.config, self.keys)
        except UserError as error:
            raise UserError(f"{error}; {advice}") from error
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
            raise UserError(f"{path} is damaged; {advice}") from error
        if differing:
            raise ConfigError(
                f"{self.folder} holds a run with another config: {', '.join(differing)} differ"
                f"{'s' * (len(differing) == 1)}; run_name=NAME keeps this one apart, overwrite=true starts again"
            )
        for key in ("device", "precision"):
            if old.get(key) != self.config[key]:
                say(f"this run began with {key}={old.get(key)} and goes on with {key}={self.config[key]}")

    def clear(self) -> None:
        """Remove what runs write, and nothing else that a user may keep in the folder."""
        for pattern in WRITTEN:
            for path in self.folder.glob(pattern):
                path.unlink()
        shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)

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
        """Write metrics.jsonl anew, whole; a killed run may have left lines that come after its last checkpoint."""
        files.write_text(self.folder / METRICS, "".join(json.dumps(line) + "\n" for line in lines))


def git_commit() -> str | None:
    """The commit of this code, with `-dirty` when files were changed; None outside a repository."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(files.REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return None
