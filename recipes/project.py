"""The folder of one clustering: what was asked, the configs that were chosen, the runs, and what came out."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from easydict import EasyDict
from pydantic import BaseModel, ConfigDict, FiniteFloat

from data.files import sources
from data.files.listing import ImageFiles
from recipes.choose import FEATURE_STAGES, STAGES, Recipe
from recipes.refining import STAGE as REFINING
from system import owned
from system.bounded import read_json
from system.console import say
from system.errors import ConfigError, UserError
from system.files import add_to_list, is_own, remove, write_text
from system.lock import LOCK, lock_folder, unlock_folder
from system.text import escape, quoted
from system.yaml_file import HERE, load_yaml
from training.folder import CONFIG, MODEL, Keys, RunFolder, is_run, read_record
from training.folder import RECORD as RUN
from utils.config import REPOSITORY, load_config
from utils.overrides import apply_overrides, split_stage, words_of
from utils.readings import IMAGES
from utils.saved import LABELS, remove_classifier
from utils.schema import SETUPS

RECORD, ALIAS, LOG = "cluster.json", "runs", "log.txt"
PICTURE = "images.png"
UNREADABLE = "unreadable.txt"
RESULTS = ("report.html", "clusters.csv", UNREADABLE)
INDEX = "index.html"  # compares several numbers of clusters
DELIVERED = (MODEL, CONFIG, RUN)
"""The model that was chosen, as a run leaves it."""
EARLIER = (RECORD, LOG, PICTURE, IMAGES, *RESULTS, *DELIVERED)
WRITTEN = (*EARLIER, INDEX)
"""What this program writes into the folder of a clustering itself; earlier versions wrote no index."""
SHORTEST = 0.001  # minutes of refining where the stages before it took all: it stops after a step
NUMBER = "number"
ALL_STAGES = (*FEATURE_STAGES, *STAGES, NUMBER)
RUNS = tuple(dict.fromkeys(SETUPS[stage].stage for stage in ALL_STAGES))
CONFIGS = ("env.yml", *(f"{stage}.yml" for stage in ALL_STAGES))


class Images(BaseModel):
    """Which images a clustering began with."""

    model_config = ConfigDict(strict=True)

    count: int
    fingerprint: str


class Outcome(BaseModel):
    """What a clustering came to: its model, and scores by labels, if there are any."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    scores: dict[str, float | int | None]


class ProjectRecord(BaseModel):
    """What is relied on of cluster.json."""

    model_config = ConfigDict(extra="allow", strict=True)

    request: dict[str, Any]
    images: Images
    recipe: str
    reasons: list[str]
    seconds: dict[str, FiniteFloat]
    result: Outcome | None
    minutes: FiniteFloat | None = None
    stages: list[str] = list(STAGES)
    """Earlier versions knew only training from scratch."""


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice: people who edit a config should not meet anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class Project:
    """An output folder: `cluster.json`, `configs/`, `runs/{pretext,scan,selflabel}`, and the results.

    What is in it is stored relative to it, so that it may be moved or copied as a whole. With `shared`, a project in
    whose folder this one is, the features are its features, and the runs are in its `runs`, under this folder's name.
    """

    def __init__(self, folder: Path, request: dict[str, Any], shared: "Project | None" = None) -> None:
        self.folder, self.request, self.shared = folder, request, shared
        self.home = shared.folder if shared else folder
        """Where `runs` is."""
        self.facts: dict[str, Any] = {
            "recipe": "",
            "reasons": [],
            "seconds": {},
            "result": None,
            "stages": list(STAGES),
            "minutes": None,
            "number": None,
        }
        self.minutes: float | None = None
        """For how long to refine, all stages and calls together."""
        self.moved: list[str] = []
        """Words that give the stages' configs where what they name is now."""
        self.offline = False

    @property
    def stages(self) -> list[str]:
        """The setups that run, in their order."""
        return self.facts["stages"]

    @property
    def finished(self) -> bool:
        """Whether there is a result, and the files that show it."""
        return bool(self.facts["result"]) and all((self.folder / name).exists() for name in RESULTS[:2])

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Lock the folder before it is looked at; a new one in which nothing came to be is removed again.

        Raises UserError when another process is running here.
        """
        made = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock_folder(self.folder, "give this one another --output")
        except OSError as error:
            raise UserError(f"cannot use {self.folder}: {error.strerror}; give another --output") from error
        try:
            yield
        finally:
            if made and [path.name for path in self.folder.iterdir()] == [LOCK]:
                unlock_folder(self.folder)
                owned.remove_if_empty(self.folder)

    def open(self, files: ImageFiles) -> bool:
        """Whether the folder holds this very request already; raises ConfigError when it holds another.

        Raises UserError when the images are not those that it began with.
        """
        self.fingerprint, self.num_images = files.fingerprint(), len(files)
        path = self.folder / RECORD
        try:
            self._adopt()
            record = read_json(path, ProjectRecord)
        except FileNotFoundError:
            return False
        except UserError as error:
            own = is_own(path)
            advice = "put back a copy of it" if own else "move it away"
            more = f" ({self._what_overwrite_does})" if own else ""
            raise UserError(f"{error}, or not of this program; {advice}, or give another --output{more}") from error
        old = self.asked_before(record)
        facts = {key: record[key] for key in self.facts if key in record}
        images = record["images"]
        same_images = images["fingerprint"] == self.fingerprint
        result = facts["result"] and {**facts["result"], "model": self._inside(facts["result"]["model"])}
        differing = sorted(key for key in self.request if old.get(key) != self.request[key])
        if differing == ["folder"] and same_images and not sources.changes(self._noted, files):
            say(f"the images are in {self.request['folder']} now, and were in {old.get('folder')}; they are the same")
        elif differing:
            raise ConfigError(
                f"{self.folder} holds another clustering ({', '.join(f'{k} was {old.get(k)}' for k in differing)}); "
                f"give another --output to keep it ({self._what_overwrite_does})"
            )
        self.facts |= facts | {"result": result}
        more_time = self._take_minutes()
        if not same_images:
            self._refuse(f"{images.get('count')} images then, {self.num_images} now")
        self.check_unchanged(files)
        self.moved = self._find_moved()
        if differing or more_time:
            self.write()
        return True

    def asked_before(self, record: dict[str, Any]) -> dict[str, Any]:
        """The request of a record, with what earlier versions could not be asked for."""
        return {"features": self.request.get("features"), "no_flip": False, "flip": False, **record["request"]}

    def _take_minutes(self) -> bool:
        """Go on with the most minutes that this command or one before gave; whether they are more than before.

        Raises ConfigError where there is nothing to refine.
        """
        before = self.facts["minutes"]
        more = self.minutes is not None and self.minutes > (before or 0)
        if more and not self._can_refine:
            raise ConfigError(f"--minutes is for refining, and nothing in {self.folder} can be refined; leave it out")
        self.facts["minutes"] = self.minutes = max(self.minutes or 0, before or 0) or None
        if more:
            self.facts["result"] = None
            if self.request["num_clusters"] and REFINING not in self.stages:
                self.stages.append(REFINING)
        return more

    @property
    def _can_refine(self) -> bool:
        if self.request["num_clusters"] is None:  # there are only features yet
            return not load_yaml(self.config_path(self.stages[0])).get("features_file")
        return self.config_path(REFINING).exists()

    def _adopt(self) -> None:
        """List what an earlier version wrote here, when it was one."""
        try:
            read_json(self.folder / RECORD, ProjectRecord)
        except (FileNotFoundError, UserError):
            return
        owned.adopt(self.folder, EARLIER)
        if self.env_path.parent.is_dir() and not self.env_path.parent.is_symlink():
            owned.adopt(self.env_path.parent, CONFIGS)

    def _inside(self, path: str) -> str:
        """A path within the folder, relative to it; earlier versions wrote where it was."""
        return "/".join(Path(path).parts[-3:])

    @property
    def _noted(self) -> Path:
        """What the first stage noted of the images."""
        return self.home / ALIAS / "pretext" / "images-train.npy"

    def _refuse(self, how: str) -> NoReturn:
        raise UserError(
            f"the images in {self.request['folder']} changed since this clustering began ({how}); put them back, or "
            f"give another --output to keep this one ({self._what_overwrite_does})"
        )

    @property
    def _what_overwrite_does(self) -> str:
        if self.shared:
            return f"overwrite=true starts everything in {self.shared.folder} again, not only this number of clusters"
        return "overwrite=true removes the runs here and starts again"

    def check_unchanged(self, files: ImageFiles) -> None:
        """Raise UserError when the images are not those that this clustering began with."""
        if files.fingerprint() != self.fingerprint:
            self._refuse(f"{self.num_images:,} images then, {len(files):,} now")
        if found := sources.changes(self._noted, files):
            self._refuse(found)

    def _find_moved(self) -> list[str]:
        """Overrides for what a config says of a place where the images, or this folder, were before."""
        words = []
        env = load_yaml(self.env_path)
        if not str(env.get("root_dir")).startswith(HERE):
            words.append(f"root_dir={json.dumps(str(self.home))}")
        kwargs = load_yaml(self.config_path(self.stages[0])).get("train_db_kwargs") or {}
        if kwargs.get("root") != self.request["folder"]:
            words.append(f"train_db_kwargs.root={json.dumps(self.request['folder'])}")
        if "cache_dir" in kwargs and Path(str(kwargs["cache_dir"])) != self.home / "cache" and words:
            old = Path(str(env.get("root_dir"))) / "cache"
            if Path(str(kwargs["cache_dir"])) == old:
                words.append(f"train_db_kwargs.cache_dir={json.dumps(str(self.home / 'cache'))}")
        return words

    def begin(self, files: ImageFiles, again: bool) -> None:
        """Start with these images; `again` removes what this program wrote here before, and nothing else.

        Raises UserError when another process is running here, or the user's files are in the way.
        """
        self.fingerprint, self.num_images = files.fingerprint(), len(files)
        self._adopt()
        folders = self._run_folders()
        for folder in (self.env_path.parent, *folders):
            owned.require_no_link(folder, self.home, "give another --output")
        owned.require_own(self.folder, WRITTEN, "move it away, or give another --output")
        owned.require_own(self.env_path.parent, CONFIGS, "move it away, or give another --output")
        settings = {"root_dir": str(self.home), "overwrite": again}
        runs = [RunFolder(folder, settings, Keys()) for folder in folders if folder.exists()]
        for run in runs:
            run.make_ready(lock_folder(run.folder, "give another --output"))
        add_to_list(self.folder, [LOG])
        if again:
            for run in runs:
                run.clear()
            remove_classifier(self.folder)
            for name in (LABELS, *RESULTS, *DELIVERED, PICTURE, IMAGES, INDEX):
                remove(self.folder / name)
            if self.config_path(NUMBER).exists():  # of the features that were
                remove(self.config_path(NUMBER))

    def _run_folders(self) -> list[Path]:
        """Where this project's runs are; every range in which a number of clusters was looked for has one."""
        runs = self.home / ALIAS
        if self.shared:
            return [runs / stage / self.folder.name for stage in RUNS[1:]]
        searches = sorted(folder for folder in (runs / NUMBER).glob("*") if is_run(folder))
        return [*(runs / stage for stage in RUNS), *searches]

    def write(self, **facts: Any) -> None:
        """Write cluster.json, new facts replacing what is known."""
        self.facts |= facts
        images = {"count": self.num_images, "fingerprint": self.fingerprint}
        record = {"request": self.request, "images": images, **self.facts}
        write_text(self.folder / RECORD, json.dumps(record, indent=1) + "\n", listed=True)

    def config_path(self, stage: str) -> Path:
        """The config of a stage, by its `setup`."""
        if self.shared and stage == self.shared.stages[0]:
            return self.shared.config_path(stage)
        return self.folder / "configs" / f"{stage}.yml"

    @property
    def env_path(self) -> Path:
        """The config of the environment."""
        return self.config_path("env")

    def arguments(self, stage: str) -> list[str]:
        """What a stage script is called with."""
        more = [*self.moved, *(["offline=true"] if self.offline else []), *self._time_words(stage)]
        return ["--config_env", str(self.env_path), "--config_exp", str(self.config_path(stage)), *more]

    def _time_words(self, stage: str) -> list[str]:
        """What says how long refining may take: what the stages before it left of the minutes."""
        if self.minutes is None or stage != REFINING:
            return []
        before = [(self, name) for name in self.stages if name != REFINING]
        before += [(self.shared, self.shared.stages[0])] if self.shared else []
        seconds = self.facts["number"].get("seconds", 0.0) if self.facts["number"] else 0.0
        folders = [Path(project.load(name)[f"{SETUPS[name].stage}_dir"]) for project, name in before]
        seconds += sum(read_record(folder).get("seconds", 0.0) for folder in folders)
        return [f"minutes={max(self.minutes - seconds / 60, SHORTEST):.3f}"]

    def load(self, stage: str) -> EasyDict:
        """A stage's config, checked."""
        return load_config(self.env_path, self.config_path(stage), self.moved)

    def write_env(self) -> None:
        """Write the config of the environment."""
        heading = "# Where these results are, relative to the folder of this file, and how many threads compute.\n"
        environment = {"root_dir": self._home_in_configs, "threads": torch.get_num_threads()}
        write_text(self.env_path, heading + yaml.safe_dump(environment, sort_keys=False), listed=True)

    @property
    def _home_in_configs(self) -> str:
        return f"{HERE}/{os.path.relpath(self.home, self.env_path.parent)}"

    def write_configs(self, recipe: Recipe, words: list[str]) -> None:
        """Write the configs of a recipe, overridden by the user's words."""
        for stage in recipe.configs:
            content = {**recipe.configs[stage], "db_alias": ALIAS}
            if self.shared:
                content["run_name"] = self.folder.name
            if self.shared and SETUPS[stage].starts_from == "scan":
                content[f"{content.get('starts_from', 'scan')}_run"] = self.folder.name
            if content["train_db_kwargs"].get("stream") is False:
                cache = {"cache_dir": f"{self._home_in_configs}/cache"}
                content = {**content, "train_db_kwargs": {**content["train_db_kwargs"], **cache}}
            content = apply_overrides(content, words_of(SETUPS[stage].stage, words))
            paths = [str(self.config_path(name).relative_to(self.folder)) for name in ("env", stage)]
            command = ["python", *_program(stage), "--config_env", paths[0], "--config_exp", paths[1]]
            how = f"Run it, where the report is, with: {quoted(command)}"
            lines = [*(f"Chosen by cluster.py: {escape(reason)}." for reason in recipe.reasons), how]
            text = "".join(f"# {line}\n" for line in lines)
            text += yaml.dump(content, Dumper=_Plain, sort_keys=False)
            write_text(self.config_path(stage), text, listed=True)

    def _check_stages(self, recipe: Recipe, words: list[str]) -> None:
        """Raise ConfigError for a word of a stage that the recipe, with the features it starts from, does without."""
        setups = [*(self.shared.stages[:1] if self.shared else []), *recipe.configs]
        known = {*setups, *(SETUPS[setup].stage for setup in setups)}
        for word in words:
            if split_stage(word)[0] and word.partition(".")[0] not in known:
                raise ConfigError(f"{word} is of a stage that these features do without; leave it out")

    def check_configs(self, recipe: Recipe, words: list[str]) -> None:
        """Raise ConfigError where the user's words do not fit the recipe, before anything here is touched."""
        self._check_stages(recipe, words)
        with tempfile.TemporaryDirectory() as folder:
            rehearsal = Project(Path(folder), self.request)
            rehearsal.write_env()
            rehearsal.write_configs(recipe, [])
            for stage in recipe.configs:
                load_config(rehearsal.env_path, rehearsal.config_path(stage), words_of(SETUPS[stage].stage, words))


def _program(setup: str) -> list[str]:
    """What Python runs; a module by its name, which works where the project is installed or in its folder."""
    module = SETUPS[setup].module
    return ["-m", module] if "." in module else [f"{REPOSITORY / module}.py"]
