"""The folder of one clustering: what was asked, the configs that were chosen, the runs, and what came out."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from easydict import EasyDict

from data.files import sources
from data.files.listing import ImageFiles
from recipes.choose import STAGES
from recipes.configs import ALIAS, ALL_STAGES, CONFIGS, NUMBER, Configs
from recipes.record import (
    DELIVERED,
    INDEX,
    LOG,
    NUMBERS,
    PICTURE,
    RECORD,
    RESULTS,
    WRITTEN,
    adopt,
    asked_before,
    has_run,
    read_record,
    result_of,
)
from system import owned
from system.console import say
from system.errors import ConfigError, UserError
from system.files import add_to_list, remove, write_text
from system.lock import LOCK, lock_folder, unlock_folder
from system.paths import usable
from training.comparison import Keys
from training.folder import RunFolder, is_run
from utils.readings import IMAGES
from utils.saved import keep_labels, remove_classifier
from utils.setups import SETUPS

RUNS = tuple(dict.fromkeys(SETUPS[stage].stage for stage in ALL_STAGES))


class Project:
    """An output folder: `cluster.json`, `configs/`, `runs/{pretext,scan,selflabel}`, and the results.

    What is in it is stored relative to it, so that it may be moved or copied as a whole. With `shared`, a project in
    whose folder this one is, the features are its features, and the runs are in its `runs`, under this folder's name.
    """

    def __init__(self, folder: Path, request: dict[str, Any], shared: "Project | None" = None) -> None:
        self.folder, self.request, self.shared = folder, request, shared
        self.home = shared.folder if shared else folder
        """Where `runs` is."""
        self.rival: Project | None = None
        """Of the same images, a clustering from scratch beside one of pretrained features, or the other way round."""
        self.configs: Configs = Configs(folder, self.home, shared.configs if shared else None)
        self.facts: dict[str, Any] = {
            "recipe": "",
            "reasons": [],
            "seconds": {},
            "result": None,
            "stages": list(STAGES),
            "minutes": None,
            "number": None,
            "leave_out": None,
            "competes": False,
        }

    @property
    def stages(self) -> list[str]:
        """The setups that run, in their order."""
        return self.facts["stages"]

    @property
    def finished(self) -> bool:
        """Whether there is a result, and the files that show it."""
        return bool(self.facts["result"]) and all((self.folder / name).exists() for name in RESULTS[:2])

    def load(self, stage: str) -> EasyDict:
        """A stage's config, checked."""
        return self.configs.load(stage)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Lock the folder before it is looked at; a new one in which nothing came to be is removed again.

        Raises UserError when another process is running here.
        """
        made = not self.folder.exists()
        with usable(self.folder, "give another --output"):
            lock_folder(self.folder, "give this one another --output")
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
        adopt(self.folder, self.configs.folder)
        record = read_record(self.folder, self._what_overwrite_does)
        if record is None:
            return False
        old, images = asked_before(record, self.request), record["images"]
        same_images = images["fingerprint"] == self.fingerprint
        differing = sorted(key for key in self.request if old.get(key) != self.request[key])
        if differing == ["folder"] and same_images and not sources.changes(self._noted, files):
            now = f"the images are in {self.request['folder']} now, and were in {old.get('folder')}; they are the same"
            if not self.rival:  # else the other one has said so
                say(now)
        elif differing:
            raise ConfigError(
                f"{self.folder} holds another clustering ({', '.join(f'{k} was {old.get(k)}' for k in differing)}); "
                f"give another --output to keep it ({self._what_overwrite_does})"
            )
        if not same_images:
            self._refuse(f"{images.get('count')} images then, {self.num_images} now")
        self.check_unchanged(files)
        self.facts |= {key: record[key] for key in self.facts if key in record} | {"result": result_of(record)}
        self.configs.find_moved(self.stages[0], self.request["folder"])
        if differing:
            self.write()
        return True

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
    def has_run(self) -> bool:
        """Whether anything ran here; after a dry run there are but configs."""
        return has_run(self.home)

    @property
    def _what_overwrite_does(self) -> str:
        if self.rival:
            return "move it away to have a network trained there"
        if self.shared:
            return f"overwrite=true starts everything in {self.shared.folder} again, not only this number of clusters"
        if not self.has_run:
            return "nothing ran there yet; overwrite=true writes its configs again"
        return "overwrite=true removes the runs here and starts again"

    def check_unchanged(self, files: ImageFiles) -> None:
        """Raise UserError when the images are not those that this clustering began with."""
        if files.fingerprint() != self.fingerprint:
            self._refuse(f"{self.num_images:,} images then, {len(files):,} now")
        if found := sources.changes(self._noted, files):
            self._refuse(found)

    def begin(self, files: ImageFiles, again: bool) -> None:
        """Start with these images; `again` removes what this program wrote here before, but for a person's labels.

        Raises UserError when another process is running here, or the user's files are in the way.
        """
        self.fingerprint, self.num_images = files.fingerprint(), len(files)
        adopt(self.folder, self.configs.folder)
        folders = self._run_folders()
        for folder in (self.configs.folder, *folders):
            owned.require_no_link(folder, self.home, "give another --output")
        owned.require_own(self.folder, WRITTEN, "move it away, or give another --output")
        owned.require_own(self.configs.folder, CONFIGS, "move it away, or give another --output")
        settings = {"root_dir": str(self.home), "overwrite": again}
        runs = [RunFolder(folder, settings, Keys()) for folder in folders if folder.exists()]
        for run in runs:
            run.make_ready(lock_folder(run.folder, "give another --output"))
        add_to_list(self.folder, [LOG])
        if again:
            for run in runs:
                run.clear()
            if kept := keep_labels(self.folder):
                say(f"the labels that were given, labels.csv, are kept as {kept}")
            remove_classifier(self.folder)
            for name in (*RESULTS, *DELIVERED, PICTURE, IMAGES, INDEX, NUMBERS):
                remove(self.folder / name)
            if self.configs.path(NUMBER).exists():  # of the features that were
                remove(self.configs.path(NUMBER))

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
