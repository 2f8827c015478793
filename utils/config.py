"""Configs: YAML files and `key=value` words, checked once, before anything runs.

`create_config(env, exp)` is the door: it reads, merges `base:`, applies overrides, checks every key against
`utils.schema`, and adds the paths of the run. What comes out is a plain, mutable EasyDict.
"""

import difflib
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from easydict import EasyDict
from pydantic import ValidationError
from torch import nn

from data import DATASETS
from data.augment import AUGMENTATIONS, build_augmentation, build_evaluation
from losses import CRITERIA
from models import BACKBONES
from models.models import ContrastiveModel
from system.errors import ConfigError
from system.files import REPOSITORY
from system.paths import expand_path
from system.sections import section_of
from system.text import shown
from training.optimizers import OPTIMIZERS
from training.schedule import SCHEDULES, kwargs_of
from utils import schema
from utils.overrides import apply_overrides, merge
from utils.yaml_file import load_yaml


def _load_with_base(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """A config laid over its base, and the file that each of its first-level keys came from."""
    content = load_yaml(path)
    origins = dict.fromkeys(content, str(path))
    base = content.pop("base", None)
    if base is None:
        return content, origins
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base must be the path of one YAML file, relative to this file")
    beneath = path.parent / expand_path(base)
    shared = load_yaml(beneath)
    if "base" in shared:
        raise ConfigError(f"{beneath}: a base may not have a base of its own")
    return merge(shared, content), dict.fromkeys(shared, str(beneath)) | origins


SHORT = 80  # characters of a key or value in a message
WHOLE = ("train_db_kwargs", "val_db_kwargs", "model_kwargs")


class _Source(NamedTuple):
    """Where keys came from: a file, but for those that its base holds or the command line laid over it."""

    file: str
    origins: dict[str, str]

    def of(self, key: str) -> str:
        return self.origins.get(key.split(".")[0], self.file)


def _explain(
    error: ValidationError, known: Callable[[tuple[Any, ...]], list[str]], origin: _Source, prefix: str
) -> str:
    first = error.errors()[0]
    place = first["loc"]
    named = [str(part) for part in place if part not in ("int", "float", "bool", "literal['auto']", "[key]")]
    key = shown(".".join([*prefix.split(".")[:-1], *named]), SHORT)
    source = origin.of(key)
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), known(place[:-1]), n=1, cutoff=0)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{source}: unknown key '{key}'{hint}"
    if first["type"] == "missing":
        return f"{source}: the key '{key}' is missing"
    if "[key]" in place:
        return f"{source}: the key '{key}' is no word"
    value = shown(first["input"], SHORT)
    if not str(first["input"]).isprintable():
        value = f"'{value}'"
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return f"{source}: {key} is {value}; {message[0].lower() + message[1:]}"


def _check(section: type[schema.Section], content: dict[str, Any], source: _Source, prefix: str = "") -> dict[str, Any]:
    def known(place: tuple[Any, ...]) -> list[str]:
        fields = section.model_fields
        for part in place:
            annotation = fields[part].annotation if part in fields else None
            if not (isinstance(annotation, type) and issubclass(annotation, schema.Section)):
                return []
            fields = annotation.model_fields
        return [*fields, "base"] if section is schema.Config and not place else list(fields)

    try:
        return section.model_validate(content).model_dump()
    except ValidationError as error:
        raise ConfigError(_explain(error, known, source, prefix)) from error


def _check_tables(checked: dict[str, Any], source: _Source) -> None:
    """Check the names that lead into tables, and the kwargs that depend on them."""
    tables: dict[str, Collection[str]] = {
        "setup": schema.SETUPS,
        "train_db_name": DATASETS,
        "val_db_name": DATASETS,
        "backbone": BACKBONES,
        "criterion": CRITERIA,
        "optimizer": OPTIMIZERS,
        "scheduler": SCHEDULES,
        "augmentation_strategy": AUGMENTATIONS,
    }
    for key, names in tables.items():
        if checked[key] is not None and checked[key] not in names:
            near = difflib.get_close_matches(checked[key], list(names), n=1, cutoff=0)[0]
            raise ConfigError(
                f"{source.of(key)}: {key} is '{shown(checked[key], SHORT)}', but must be one of {', '.join(names)}; "
                f"is it '{near}'?"
            )
    train, val = checked["train_db_name"], checked["val_db_name"]
    sections = {
        # A folder's class numbers are told by the split that came before.
        "train_db_kwargs": section_of(DATASETS[train], left_out=("classes",)),
        "val_db_kwargs": section_of(DATASETS[val or train], left_out=("classes",)),
        "model_kwargs": section_of(ContrastiveModel, left_out=("backbone",)),
        "optimizer_kwargs": checked["optimizer_kwargs"]
        and checked["optimizer"]
        and section_of(OPTIMIZERS[checked["optimizer"]], left_out=("parameters",)),
        "scheduler_kwargs": kwargs_of(checked["scheduler"]),
        # The threshold of self-labeling is a key of its own.
        "criterion_kwargs": checked["criterion"]
        and section_of(CRITERIA[checked["criterion"]], left_out=("threshold",)),
    }
    for key, section in sections.items():
        if section:
            whole = _check(section, checked[key], source, f"{key}.")
            # What is built knows its own defaults; those of data and model are told, for what is saved and compared.
            checked[key] = whole if key in WHOLE else {name: whole[name] for name in checked[key]}
    builders: dict[str, Callable[..., Any] | None] = {
        "optimizer_kwargs": sections["optimizer_kwargs"]
        and partial(OPTIMIZERS[checked["optimizer"]], [nn.Parameter(torch.zeros(1))]),
        "augmentation_kwargs": checked["augmentation_strategy"]
        and partial(build_augmentation, checked["augmentation_strategy"]),
        "transformation_kwargs": checked["transformation_kwargs"] and build_evaluation,
    }
    for key, build in builders.items():
        if build:
            try:
                build(**checked[key])
            except (ConfigError, TypeError) as error:
                raise ConfigError(f"{source.of(key)}: {key}: {error}") from error


def _check_data_paths(paths: dict[str, str], source: str) -> None:
    for name in paths:
        if name not in DATASETS:
            near = difflib.get_close_matches(name, list(DATASETS), n=1, cutoff=0)[0]
            raise ConfigError(f"{source}: unknown data set 'data_paths.{shown(name, SHORT)}'; did you mean '{near}'?")


def database_name(config: dict[str, Any]) -> str:
    """The folder of a data set's results: its name, or for a `folder` its alias or its directory's name."""
    if config.get("db_alias"):
        return config["db_alias"]
    if config["train_db_name"] != "folder":
        return config["train_db_name"]
    root = config["train_db_kwargs"]["root"]
    if not root:
        raise ConfigError("train_db_name: folder needs its directory: add train_db_kwargs.root=PATH")
    try:
        return Path(expand_path(root)).resolve().name or "folder"
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"train_db_kwargs.root is {shown(root)}, which is no directory: {error}") from error


def add_paths(config: EasyDict) -> EasyDict:
    """Add the paths of all stages to a config, as the results folder lays them out."""
    base = Path(config.root_dir) / database_name(config)
    own = schema.SETUPS[config.setup].stage
    for stage in dict.fromkeys([*schema.STAGES, own]):
        name = config.run_name if stage == own else config.get(f"{stage}_run")
        folder = base / stage / name if name else base / stage
        config[f"{stage}_dir"] = str(folder)
        config[f"{stage}_checkpoint"] = str(folder / "checkpoint.pth.tar")
        config[f"{stage}_model"] = str(folder / "model.pth.tar")
    for split in ("train", "val"):
        config[f"topk_neighbors_{split}_path"] = str(Path(config.pretext_dir) / f"topk-{split}-neighbors.npy")
    return config


def load_config(env: Path | str | None, exp: Path | str, overrides: Sequence[str] = ()) -> EasyDict:
    """Read and check env.yml and an experiment's YAML, and lay `key=value` words over them; writes nothing.

    Raises ConfigError for whatever is wrong with them, naming file, key and the nearest known key.
    """
    if env is None:
        env = "configs/env.yml" if Path("configs/env.yml").exists() else REPOSITORY / "configs" / "env.yml"
    first_keys = {word: word.split("=")[0].split(".")[0] for word in overrides}
    env_words = [word for word in overrides if first_keys[word] in schema.Environment.model_fields]
    exp_words = [word for word in overrides if word not in env_words]
    overridden = dict.fromkeys(first_keys.values(), "the command line")
    env, exp = expand_path(env), expand_path(exp)
    environment = apply_overrides(load_yaml(env), env_words)
    environment = _check(schema.Environment, environment, _Source(str(env), overridden))
    _check_data_paths(environment["data_paths"], _Source(str(env), overridden).of("data_paths"))
    content, origins = _load_with_base(Path(exp))
    source = _Source(str(exp), origins | overridden)
    checked = _check(schema.Config, apply_overrides(content, exp_words), source)
    _check_tables(checked, source)
    return add_paths(EasyDict({**environment, **checked}))


def create_config(env: Path | str, exp: Path | str) -> EasyDict:
    """The config of published walk-throughs: an EasyDict with paths, whose result folders exist to be saved into."""
    config = load_config(env, exp)
    for stage in schema.STAGES:
        Path(config[f"{stage}_dir"]).mkdir(parents=True, exist_ok=True)
    return config


def require(config: EasyDict, *keys: str, script: str) -> None:
    """Demand keys that one stage needs; raises ConfigError naming the first that is missing."""
    for key in keys:
        if config.get(key) in (None, {}):
            raise ConfigError(f"{script} needs the key '{key}', which the config does not have; add it or give {key}=…")
