"""The configs of a clustering, one a stage, with which each stage also runs by hand."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from easydict import EasyDict

from recipes.choose import FEATURE_STAGES, STAGES, Recipe
from system.errors import ConfigError
from system.files import write_text
from system.runtime import Runtime
from system.text import escape, quoted
from system.yaml_file import HERE, load_yaml
from utils.config import REPOSITORY, load_config
from utils.overrides import apply_overrides, split_stage, words_of
from utils.setups import SETUPS

ALIAS = "runs"
NUMBER = "number"
ALL_STAGES = (*FEATURE_STAGES, *STAGES, NUMBER)
CONFIGS = ("env.yml", *(f"{stage}.yml" for stage in ALL_STAGES))


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice: people who edit a config should not meet anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class Configs:
    """`configs/` in the folder of a clustering: env.yml, and a config a stage, by its `setup`.

    `home` is the folder in which `runs` is. With `shared`, the configs of the clustering in whose folder this one is,
    the config of the features is there.
    """

    def __init__(self, folder: Path, home: Path, shared: "Configs | None" = None) -> None:
        self.folder, self.home, self.shared = folder / "configs", home, shared
        self.moved: list[str] = []
        """Words that give the configs where what they name is now."""
        self.offline = False

    def path(self, stage: str) -> Path:
        """The config of a stage."""
        if self.shared and SETUPS[stage].stage == "pretext":
            return self.shared.path(stage)
        return self.folder / f"{stage}.yml"

    @property
    def env(self) -> Path:
        """The config of the environment."""
        return self.folder / "env.yml"

    def load(self, stage: str) -> EasyDict:
        """A stage's config, checked."""
        return load_config(self.env, self.path(stage), self.moved)

    def arguments(self, stage: str) -> list[str]:
        """What a stage script is called with."""
        more = [*self.moved, *(["offline=true"] if self.offline else [])]
        return ["--config_env", str(self.env), "--config_exp", str(self.path(stage)), *more]

    def find_moved(self, first: str, images: str) -> None:
        """Find where a place that the configs name is now: this folder, or the images, of which the `first` stage is.

        Earlier versions wrote where they were, and no config knows where images went.
        """
        self.moved = []
        env = load_yaml(self.env)
        if not str(env.get("root_dir")).startswith(HERE):
            self.moved.append(f"root_dir={json.dumps(str(self.home))}")
        kwargs = load_yaml(self.path(first)).get("train_db_kwargs") or {}
        if kwargs.get("root") != images:
            self.moved.append(f"train_db_kwargs.root={json.dumps(images)}")
        if "cache_dir" in kwargs and Path(str(kwargs["cache_dir"])) != self.home / "cache" and self.moved:
            old = Path(str(env.get("root_dir"))) / "cache"
            if Path(str(kwargs["cache_dir"])) == old:
                self.moved.append(f"train_db_kwargs.cache_dir={json.dumps(str(self.home / 'cache'))}")

    def write_env(self, runtime: Runtime) -> None:
        """Write the config of the environment: threads and precision are chosen once, whatever machine goes on."""
        heading = "# Where these results are, relative to the folder of this file, and how they are computed.\n"
        chosen = {"threads": torch.get_num_threads(), "auto_precision": runtime.training_precision}
        before = load_yaml(self.shared.env) if self.shared else {}
        environment = {"root_dir": self._relative_home, **{key: before.get(key, chosen[key]) for key in chosen}}
        write_text(self.env, heading + yaml.safe_dump(environment, sort_keys=False), listed=True)

    @property
    def _relative_home(self) -> str:
        return f"{HERE}/{os.path.relpath(self.home, self.folder)}"

    def write(self, recipe: Recipe, words: list[str]) -> None:
        """Write the configs of a recipe, overridden by the user's words."""
        own = self.folder.parent.name
        for stage, config in recipe.configs.items():
            content = {**config, "db_alias": ALIAS}
            if self.shared:
                content["run_name"] = own
            if self.shared and SETUPS[stage].starts_from == "scan":
                content[f"{content.get('starts_from', 'scan')}_run"] = own
            if content["train_db_kwargs"].get("stream") is False:
                cache = {"cache_dir": f"{self._relative_home}/cache"}
                content["train_db_kwargs"] = {**content["train_db_kwargs"], **cache}
            content = apply_overrides(content, words_of(SETUPS[stage].stage, words))
            paths = [str(path.relative_to(self.folder.parent)) for path in (self.env, self.path(stage))]
            command = ["python", *_program(stage), "--config_env", paths[0], "--config_exp", paths[1]]
            how = f"Run it, where the report is, with: {quoted(command)}"
            lines = [*(f"Chosen by cluster.py: {escape(reason)}." for reason in recipe.reasons), how]
            text = "".join(f"# {line}\n" for line in lines)
            text += yaml.dump(content, Dumper=_Plain, sort_keys=False)
            write_text(self.path(stage), text, listed=True)


def check_configs(recipe: Recipe, words: list[str], runtime: Runtime, first: list[str]) -> None:
    """Raise ConfigError where the user's words do not fit a recipe, before anything of it is written.

    `first` are the setups that another clustering runs for it, to which words may be given.
    """
    setups = [*first, *recipe.configs]
    known = {*setups, *(SETUPS[setup].stage for setup in setups)}
    for word in words:
        if split_stage(word)[0] and word.partition(".")[0] not in known:
            raise ConfigError(f"{word} is of a stage that these features do without; leave it out")
    with tempfile.TemporaryDirectory() as name:
        rehearsal = Configs(Path(name), Path(name))
        rehearsal.write_env(runtime)
        rehearsal.write(recipe, [])
        for stage in recipe.configs:
            load_config(rehearsal.env, rehearsal.path(stage), words_of(SETUPS[stage].stage, words))


def _program(setup: str) -> list[str]:
    """What Python runs; a module by its name, which works where the project is installed or in its folder."""
    module = SETUPS[setup].module
    return ["-m", module] if "." in module else [f"{REPOSITORY / module}.py"]
