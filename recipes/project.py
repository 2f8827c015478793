"""The folder of one clustering: what was asked, the configs that were chosen, the runs, and what came out."""

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from easydict import EasyDict

from recipes.choose import STAGES, Recipe, choose
from recipes.look import Look
from system.errors import ConfigError, UserError
from system.files import write_text
from system.lock import lock_folder
from system.runtime import Runtime, generator
from system.text import escape, quoted
from training.folder import Keys, RunFolder
from utils.common_config import get_model, get_train_transformations
from utils.config import REPOSITORY, load_config
from utils.overrides import apply_overrides, words_of
from utils.schema import SETUPS

RECORD, ALIAS = "cluster.json", "runs"
COST = {"simclr": 1.0, "scan": 1.0, "selflabel": 0.75}  # of an image in a stage, two views with gradient being 1
QUICK_SECONDS = {"simclr": 150.0, "scan": 60.0, "selflabel": 30.0}
QUICK_EPOCHS = 3
NUM_TIMED = 3


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice: people who edit a config should not meet anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class Project:
    """An output folder: `cluster.json`, `configs/`, `runs/{pretext,scan,selflabel}`, and the results."""

    def __init__(self, folder: Path, request: dict[str, Any]) -> None:
        self.folder, self.request = folder, request
        self.facts: dict[str, Any] = {"recipe": "", "reasons": [], "seconds": {}, "result": None}

    def open(self, fingerprint: str, num_images: int) -> bool:
        """Whether the folder holds this very request already; raises ConfigError when it holds another.

        Raises UserError when the images are not those that it began with.
        """
        self.fingerprint, self.num_images = fingerprint, num_images
        path = self.folder / RECORD
        if not path.exists():
            return False
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            old, facts = record["request"], {key: record[key] for key in self.facts}
            images = record["images"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged; overwrite=true starts again") from error
        differing = sorted(key for key in self.request if old.get(key) != self.request[key])
        if differing:
            raise ConfigError(
                f"{self.folder} holds another clustering ({', '.join(f'{k} was {old.get(k)}' for k in differing)}); "
                "--output DIR keeps this one apart, overwrite=true starts again"
            )
        self.facts = facts
        self._compare(images, fingerprint, num_images)
        return True

    def _compare(self, images: dict[str, Any], fingerprint: str, num_images: int) -> None:
        if images["fingerprint"] != fingerprint:
            counts = f"{images['count']:,} images then, {num_images:,} now"
            raise UserError(
                f"the images in {self.request['folder']} changed since this clustering began ({counts}); put them "
                "back, or start again with overwrite=true, or keep this one and give another --output"
            )

    def begin(self, fingerprint: str, num_images: int) -> None:
        """Start with these images, whatever was here; raises UserError when another process is at work here."""
        self.fingerprint, self.num_images = fingerprint, num_images
        for folder in (self.folder / ALIAS).glob("*/"):
            lock_folder(folder)
            RunFolder(folder, {}, Keys()).clear()

    def check_unchanged(self, fingerprint: str, num_images: int) -> None:
        """Raise UserError when the images are not those that this clustering began with."""
        self._compare({"fingerprint": self.fingerprint, "count": self.num_images}, fingerprint, num_images)

    def write(self, **facts: Any) -> None:
        """Write cluster.json, with new facts laid over what is known."""
        self.facts |= facts
        images = {"count": self.num_images, "fingerprint": self.fingerprint}
        record = {"request": self.request, "images": images, **self.facts}
        write_text(self.folder / RECORD, json.dumps(record, indent=1) + "\n")

    def config_path(self, stage: str) -> Path:
        """The config of a stage, by its `setup`."""
        return self.folder / "configs" / f"{stage}.yml"

    @property
    def env_path(self) -> Path:
        """The config of the environment."""
        return self.config_path("env")

    def arguments(self, stage: str) -> list[str]:
        """What a stage script is called with."""
        return ["--config_env", str(self.env_path), "--config_exp", str(self.config_path(stage))]

    def load(self, stage: str) -> EasyDict:
        """A stage's config, checked."""
        return load_config(self.env_path, self.config_path(stage))

    def write_configs(self, recipe: Recipe, words: list[str]) -> None:
        """Write the configs of a recipe, with the user's words laid over them."""
        heading = "# Where these results lie.\n"
        write_text(self.env_path, heading + yaml.safe_dump({"root_dir": str(self.folder)}))
        for stage in STAGES:
            content = {**recipe.configs[stage], "db_alias": ALIAS}
            if content["train_db_kwargs"]["stream"] is False:
                cache = {"cache_dir": str(self.folder / "cache")}
                content = {**content, "train_db_kwargs": {**content["train_db_kwargs"], **cache}}
            content = apply_overrides(content, words_of(SETUPS[stage].stage, words))
            command = quoted(["python", f"{REPOSITORY / stage}.py", *self.arguments(stage)])
            lines = [*(f"Chosen by cluster.py: {escape(r)}." for r in recipe.reasons), f"Run it with: {command}"]
            text = "".join(f"# {line}\n" for line in lines)
            write_text(self.config_path(stage), text + yaml.dump(content, Dumper=_Plain, sort_keys=False))

    def check_configs(self, recipe: Recipe, words: list[str]) -> None:
        """Raise ConfigError where the user's words do not fit the recipe, before anything here is touched."""
        with tempfile.TemporaryDirectory() as folder:
            rehearsal = Project(Path(folder), self.request)
            rehearsal.write_configs(recipe, [])
            for stage in STAGES:
                load_config(rehearsal.env_path, rehearsal.config_path(stage), words_of(SETUPS[stage].stage, words))


def make_recipe(look: Look, num_clusters: int, runtime: Runtime, quick: bool) -> tuple[Recipe, dict[str, float]]:
    """A recipe and the estimated seconds of its stages on this machine; `quick` fits epochs into four minutes."""
    recipe = choose(look, num_clusters, runtime.device.type, quick)
    second = _seconds_per_image(recipe.configs["simclr"], runtime) * look.num_images
    per_epoch = {stage: max(second * COST[stage], 1e-6) for stage in STAGES}
    for stage, config in recipe.configs.items():
        if quick:
            fitting = math.floor(QUICK_SECONDS[stage] / per_epoch[stage])
            config["epochs"] = min(config["epochs"], max(fitting, QUICK_EPOCHS))
    return recipe, per_epoch


def _seconds_per_image(config: dict[str, Any], runtime: Runtime) -> float:
    p = EasyDict(config)
    return time_step(p, runtime.place(get_model(p)), runtime) / p.batch_size


def time_step(p: EasyDict, model: Any, runtime: Runtime) -> float:
    """Seconds of one step's forward and backward passes on random images, without touching the weights."""
    augment = get_train_transformations(p)
    images = torch.randint(
        256, (p.batch_size, 3, augment.size, augment.size), generator=generator(0), dtype=torch.int64
    )
    images = images.to(torch.uint8).to(runtime.device)
    model.train()
    times = []
    for _ in range(NUM_TIMED):
        started = time.monotonic()
        for _ in range(2):  # every stage forwards two views of every image
            outputs = runtime.forward(model, augment(images), runtime.training)
            loss = sum(output.square().mean() for output in (outputs if isinstance(outputs, list) else [outputs]))
            loss.backward()
        loss.item()  # waits for the device
        times.append(time.monotonic() - started)
    model.zero_grad(set_to_none=True)
    return min(times)
