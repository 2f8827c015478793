"""Configs: YAML files and `key=value` words, checked once, before anything runs.

`create_config(env, exp)` is the door: it reads, merges `base:`, applies overrides, checks every key against
`utils.schema`, and adds the paths of the run. What comes out is a plain, mutable EasyDict.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from easydict import EasyDict

from data import DATASETS
from models import backbone_options
from models.pretrained import is_pretrained, wanted_views
from system.errors import ConfigError
from system.files import REPOSITORY
from system.paths import expand_path
from system.sections import SHORT, Section, check, look_up
from system.text import shown
from system.yaml_file import load_placed
from utils import schema, setups
from utils.bases import COMMAND_LINE, Origins, load_with_bases
from utils.common_config import get_stem, get_view_kwargs
from utils.overrides import apply_overrides, merge
from utils.tables import TABLES


def _check(section: type[Section], content: dict[str, Any], origins: Origins) -> dict[str, Any]:
    known = ("base",) if section is schema.Config else ()
    return check(section, content, origins.of, also_known=known).model_dump()


def _check_tables(config: dict[str, Any], origins: Origins) -> None:
    """Check the names that lead into tables, and the options of what they name."""
    if is_pretrained(config["backbone"]):
        config["transformation_kwargs"] = merge(wanted_views(config["backbone"]), config["transformation_kwargs"])
    for table in TABLES:
        name = table.name(config)
        if name is None:
            continue
        try:
            look_up(table.entries, name, table.key)
        except ConfigError as error:
            raise ConfigError(f"{origins.of(table.key)}: {error}") from error
        if table.kwargs is None or (table.may_be_empty and not config[table.kwargs]):
            continue
        given = get_view_kwargs(config) if table.key == "augmentation_strategy" else config[table.kwargs]
        options = check(table.section(name), given, origins.of, f"{table.kwargs}.", owner=name)
        config[table.kwargs] = options.model_dump(exclude_unset=not table.with_defaults)
    _check_backbone(config, origins)


def _check_backbone(config: dict[str, Any], origins: Origins) -> None:
    name, dataset = config["backbone"], config["train_db_name"]
    which = f"backbone '{name}'"
    stem = config["stem"]
    if stem is None and (dataset != "folder" or config["transformation_kwargs"]):
        stem, which = get_stem(config), f"{which} on {dataset}"
    backbone_options(name, stem, config["width"], lambda key: f"{origins.of(key)}: {which}")


def _check_prior(config: dict[str, Any], origins: Origins) -> None:
    prior, num_clusters = config["cluster_prior"], config["num_classes"]
    if isinstance(prior, list) and num_clusters is not None and len(prior) != num_clusters:
        raise ConfigError(
            f"{origins.of('cluster_prior')}: cluster_prior has {len(prior)} shares, but num_classes is {num_clusters}; "
            "give a share for each cluster"
        )


def _check_optimizer(config: dict[str, Any], origins: Origins) -> None:
    """Raise ConfigError where Muon, which brings kernels to a length of its own, trains no network from scratch."""
    from_scratch = setups.SETUPS[config["setup"]].stage == "pretext" and not is_pretrained(config["backbone"])
    if config["optimizer"] == "muon" and (not from_scratch or config["method_kwargs"].get("start")):
        raise ConfigError(
            f"{origins.of('optimizer')}: optimizer: muon changes the lengths of kernels, and is for pretext tasks that "
            "train a network from scratch; give sgd, adam or adamw"
        )


def _check_criterion(config: dict[str, Any], origins: Origins) -> None:
    setup, criterion = setups.SETUPS[config["setup"]], config["criterion"]
    if setup.criteria and criterion is not None and criterion not in setup.criteria:
        raise ConfigError(
            f"{origins.of('criterion')}: criterion is {criterion}, but {setup.script} trains by "
            f"{' or '.join(setup.criteria)}"
        )


def check_used(config: dict[str, Any], keys: Iterable[str], place: Callable[[str], str]) -> None:
    """Raise ConfigError where one of some keys, given at a `place`, has a value that the config's setup never reads."""
    for key in keys:
        readers = setups.USED_BY.get(key)
        if readers is None or config[key] == schema.Config.model_fields[key].default:
            continue
        if config["setup"] not in readers:
            raise ConfigError(
                f"{place(key)}: {key} has no effect on {config['setup']}, but on {', '.join(readers)}; leave it out"
            )
        if key in setups.RELIABLE_KEYS and config["criterion"] != "fixmatch":
            raise ConfigError(f"{place(key)}: {key} has no effect without criterion: fixmatch; leave it out")


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
        raise ConfigError(f"train_db_kwargs.root is {shown(root)}, which is not a directory: {error}") from error


def add_paths(config: EasyDict) -> EasyDict:
    """Add the paths of all stages to a config, as they are in the results folder."""
    base = Path(config.root_dir) / database_name(config)
    own = setups.SETUPS[config.setup].stage
    for stage in dict.fromkeys([*setups.STAGES, config.starts_from, own]):
        name = config.run_name if stage == own else config.get(f"{stage}_run")
        folder = base / stage / name if name else base / stage
        config[f"{stage}_dir"] = str(folder)
        config[f"{stage}_checkpoint"] = str(folder / "checkpoint.pth.tar")
        config[f"{stage}_model"] = str(folder / "model.pth.tar")
    for split in ("train", "val"):
        config[f"topk_neighbors_{split}_path"] = str(Path(config.pretext_dir) / f"topk-{split}-neighbors.npy")
    return config


def load_config(env: Path | str | None, exp: Path | str, overrides: Sequence[str] = ()) -> EasyDict:
    """Read and check env.yml and an experiment's YAML, overridden by `key=value` words; writes nothing.

    Raises ConfigError for whatever is wrong with them, naming file, key and the nearest known key.
    """
    if env is None:
        env = "configs/env.yml" if Path("configs/env.yml").exists() else REPOSITORY / "configs" / "env.yml"
    first_keys = {word: word.split("=")[0].split(".")[0] for word in overrides}
    env_words = [word for word in overrides if first_keys[word] in schema.Environment.model_fields]
    exp_words = [word for word in overrides if word not in env_words]
    env, exp = expand_path(env), expand_path(exp)
    if "base" in first_keys.values():
        raise ConfigError(f"{COMMAND_LINE}: base belongs in the config file, which is read before other keys")
    content, origins = load_placed(Path(env)), Origins(env)
    origins.add_words(env_words)
    environment = _check(schema.Environment, apply_overrides(content, env_words), origins)
    _check_data_paths(environment["data_paths"], origins.of("data_paths"))
    content, origins = load_with_bases(Path(exp))
    origins.add_words(exp_words)
    checked = _check(schema.Config, apply_overrides(content, exp_words), origins)
    _check_tables(checked, origins)
    _check_prior(checked, origins)
    _check_criterion(checked, origins)
    _check_optimizer(checked, origins)
    check_used(checked, setups.NEVER_SHARED, origins.of)
    return add_paths(EasyDict({**environment, **checked}))


def create_config(env: Path | str, exp: Path | str) -> EasyDict:
    """The config of published walk-throughs: an EasyDict with paths, whose result folders exist to be saved into."""
    config = load_config(env, exp)
    for stage in setups.STAGES:
        Path(config[f"{stage}_dir"]).mkdir(parents=True, exist_ok=True)
    return config


def require(config: EasyDict, *keys: str, script: str) -> None:
    """Demand keys that one stage needs; raises ConfigError naming the first that is missing."""
    for key in keys:
        if config.get(key) in (None, {}):
            raise ConfigError(
                f"{script} needs the key '{key}', which the config does not have; "
                f"add it to the file, or give {key}=VALUE"
            )
