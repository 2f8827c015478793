"""From the words of a command line to runs: every combination its own `run_name`, what it starts from named."""

import hashlib
import importlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easydict import EasyDict

from system.errors import ConfigError
from system.text import shown
from utils.bases import COMMAND_LINE, load_with_bases
from utils.config import check_used, load_config
from utils.overrides import split_stage, split_values
from utils.setups import SETUPS, STAGES, stage_of, stages_until
from utils.stage import fill_options

OWN_KEYS = ("run_name", "pretext_run", "scan_run", "overwrite", "root_dir")
MAX_NAME = 150


@dataclass(frozen=True)
class Axis:
    """A key with its values; `stage` is whose key it is, None for a seed that all stages of the sweep take."""

    stage: str | None
    key: str
    values: tuple[str, ...]

    def shown(self, target: str) -> str:
        """The key as it is written on the command line."""
        return self.key if self.stage in (None, target) else f"{self.stage}.{self.key}"


@dataclass(frozen=True)
class Job:
    """One run of a stage: its config file, its words, and the run it starts from."""

    stage: str
    name: str
    env: str | None
    exp: str
    words: tuple[str, ...]
    before: "Job | None" = None

    @property
    def arguments(self) -> list[str]:
        """What the stage script is called with."""
        env = ["--config_env", self.env] if self.env else []
        return [*env, "--config_exp", self.exp, *self.words]

    def config(self) -> EasyDict:
        """The resolved config, as the run has it; raises ConfigError."""
        p = load_config(self.env, self.exp, self.words)
        check_used(p, (word.partition("=")[0] for word in self.words), lambda key: COMMAND_LINE)
        if train := getattr(importlib.import_module(SETUPS[p.setup].module), "train", None):
            fill_options(p, train, self.exp)
        return p

    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config()[f"{self.stage}_dir"])


@dataclass
class Setting:
    """A combination of all values but seeds: what varies in it, in words, and its runs by seed."""

    values: dict[str, str]
    runs: list[Job] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The values that vary between settings, in one line."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items()) or "all runs"


@dataclass
class Plan:
    """All jobs in an order in which they can run, and the settings of the last stage."""

    stage: str
    jobs: list[Job]
    settings: list[Setting]
    axes: list[Axis]

    @property
    def name(self) -> str:
        """A name of the sweep by what it varies, so that one with more values continues it, and by what it fixes."""
        parts = [self.stage]
        for axis in self.axes:
            if len(axis.values) > 1:
                parts.append(axis.shown(self.stage))
            elif axis.key != "seed" and not axis.key.endswith(".root"):  # the data set has its own folder
                parts.append(f"{axis.shown(self.stage)}={axis.values[0]}")
        return _clean("-".join(parts))


def _clean(name: str) -> str:
    """A name that a run can have; different names stay different."""
    clean = re.sub(r"[^A-Za-z0-9._=,+-]", "-", name)
    if clean != name or len(clean) > MAX_NAME:
        clean = f"{clean[:MAX_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return clean


def read_axes(stage: str, words: Sequence[str]) -> list[Axis]:
    """The keys and values of a command line, seeds last; raises ConfigError for what cannot be swept."""
    axes: list[Axis] = []
    stages = stages_until(stage)
    for word in words:
        owner, rest = split_stage(word)
        key, values = split_values(rest)
        if key in OWN_KEYS:
            raise ConfigError(f"{key} is set by sweep.py itself; leave it out (--name names the sweep)")
        if owner is not None and owner not in stages:
            raise ConfigError(
                f"'{shown(word)}' concerns the stage {owner}, which does not come before {stage}, the last of this "
                f"sweep; leave it out, or sweep {owner}"
            )
        axis = Axis(None if owner is None and key == "seed" else owner or stage, key, tuple(values))
        if any((other.stage, other.key) == (axis.stage, axis.key) for other in axes):
            raise ConfigError(f"{axis.shown(stage)} is given twice; give all its values at once, with commas")
        axes.append(axis)
    own = [axis for axis in axes if axis.key == "seed" and axis.stage]
    if own and len(own) < sum(axis.key == "seed" for axis in axes):
        raise ConfigError(
            f"seed is of all stages, and {own[0].stage}.seed of one; give each stage a seed of its own, as in "
            f"{stage}.seed=0,1"
        )
    return sorted(axes, key=lambda axis: axis.key == "seed")


def find_config(stage: str, target: str, given: dict[str, str | None]) -> str:
    """A stage's config: the one given, or one named as the last stage's is; raises ConfigError.

    Of several it is the one whose run the last stage starts from.
    """
    named = given.get(stage)
    if named:
        return named
    last = Path(given[target] or "")
    names = {of: [name for name, setup in SETUPS.items() if setup.stage == of] for of in (stage, target)}
    found: dict[Path, None] = {}  # a stage may be called as a setup is, and would find its own config twice
    for own, other in itertools.product([*names[target], target], names[stage]):
        if last.name.startswith(own):
            near = last.name.replace(own, other, 1)
            found |= dict.fromkeys(filter(Path.is_file, (last.parent.parent / stage / near, last.parent / near)))
    if len(found) > 1:
        wanted = _given(last, f"{stage}_run")
        found = dict.fromkeys(path for path in found if _given(path, "run_name") == wanted)
    if not found:
        raise ConfigError(
            f"the config of the stage {stage} is not found next to {last}; name it: --{stage}_config FILE"
        )
    return str(next(iter(found)))


def _given(config: Path, key: str) -> Any:
    return load_with_bases(config)[0].get(key)


def make_plan(stage: str, env: str | None, given: dict[str, str | None], words: Sequence[str]) -> Plan:
    """All runs of a sweep whose last stage is `stage`; stages before it run too from the first one that is named.

    `given` are config files by stage. Raises ConfigError for whatever is wrong with a word or a config, before
    anything runs.
    """
    axes = read_axes(stage, words)
    every = stages_until(stage)
    stages = every[min((every.index(axis.stage) for axis in axes if axis.stage), default=len(every) - 1) :]
    for name, path in given.items():
        if path and name not in stages:
            raise ConfigError(
                f"--{name}_config is given, and this sweep does not run {name}; give one of its keys, such as "
                f"{name}.seed=0, or leave it out"
            )
    configs = {name: find_config(name, stage, given) for name in stages}
    for word in words:
        _check_setup(word, configs, stage)
    jobs: dict[tuple[str, str], Job] = {}
    settings: dict[tuple[str, ...], Setting] = {}
    for values in itertools.product(*(axis.values for axis in axes)):
        chosen = list(zip(axes, values, strict=True))
        job = None
        for current in stages:
            made = _make_job(current, env, configs[current], chosen, job)
            job = jobs.setdefault((made.stage, made.name), made)
        assert job is not None
        key = tuple(value for axis, value in chosen if axis.key != "seed")
        varied = {axis.shown(stage): v for axis, v in chosen if axis.key != "seed" and len(axis.values) > 1}
        settings.setdefault(key, Setting(varied)).runs.append(job)
    for job in jobs.values():
        job.config()
    return Plan(stage, list(jobs.values()), list(settings.values()), axes)


def _check_setup(word: str, configs: Mapping[str, str], target: str) -> None:
    """Raise ConfigError where a word begins with a method's name and its stage has another one's config."""
    named = word.partition(".")[0]
    stage = stage_of(named)
    if named in STAGES or stage is None or stage not in configs:
        return
    config = configs[stage]
    setup = _given(Path(config), "setup")
    if setup != named:
        raise ConfigError(
            f"'{shown(word)}' is of {named}, but the stage {stage} would run {config}, whose setup is {setup}; name "
            f"its config: {'--config_exp' if stage == target else f'--{stage}_config'} FILE"
        )


def _make_job(stage: str, env: str | None, exp: str, chosen: list[tuple[Axis, str]], before: Job | None) -> Job:
    """The run of one stage in one combination; its name holds every value that went into it."""
    until = (None, *stages_until(stage))
    parts = [f"{axis.shown(stage)}={value}" for axis, value in chosen if axis.stage in until]
    words = [f"{axis.key}={value}" for axis, value in chosen if axis.stage in (None, stage)]
    name = _clean(",".join(parts) or "sweep")
    words.append(f"run_name={name}")
    earlier = before
    while earlier is not None:
        words.append(f"{earlier.stage}_run={earlier.name}")
        earlier = earlier.before
    return Job(stage, name, env, exp, tuple(words), before)
