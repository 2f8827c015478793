"""The folders of images of a run: where they are now, and whether they are those that it began with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from data.files import sources
from data.files.listing import ImageFiles, NoImagesError, list_images
from system.console import warn
from system.errors import ConfigError, UserError
from system.paths import expand_path

KEY = "{}_db_kwargs.root"


def where_key(p: Any, name: str, split: str) -> str:
    """What to give on the command line when the images of a split were moved."""
    if name != "folder":
        return f"data_paths.{name}=PATH"
    alias = "" if p.get("db_alias") else f" (and db_alias={Path(p['train_db_kwargs']['root'] or '').name}, its results)"
    return f"{KEY.format(split)}=PATH" + (alias if split == "train" else "")


class RunImages:
    """What is noted of the images of a run, in `images-{split}.npy` in its folder."""

    def __init__(self, p: Any) -> None:
        self.p = p
        self.roots: dict[str, Path] = {}
        for split in ("train", "val"):
            if p.get(f"{split}_db_name") == "folder":
                root = (p.get(f"{split}_db_kwargs") or {}).get("root") or (p.get("data_paths") or {}).get("folder")
                self.roots[split] = Path(expand_path(root or p.get("data_root") or "datasets"))
        self.keys = tuple(map(KEY.format, self.roots))
        """Config keys that only say where the images are."""

    def _list(self, split: str) -> ImageFiles:
        try:
            return list_files(self.roots[split])
        except NoImagesError as error:
            raise UserError(f"{error}: {where_key(self.p, 'folder', split)}") from error

    def changes(self, folder: Path, finished: bool = False) -> str:
        """How the images differ from those noted in a run folder, in words; empty when nothing says that they do.

        Those of a `finished` run may be gone. Raises UserError when the others are.
        """
        for split, root in self.roots.items():
            if finished and not root.is_dir():
                continue
            found = sources.changes(self._path(folder, split), self._list(split))
            if found:
                return f"{root}: {found}"
        return ""

    def note(self, folder: Path, again: bool) -> None:
        """Note what the images are now, where that is not noted yet or is to be `again`."""
        for split in self.roots:
            path, earlier = self._path(folder, split), self._path(Path(self.p["pretext_dir"]), split)
            if again or not sources.is_noted(path):
                sources.note(path, self._list(split), earlier)

    def are_those_of(self, folder: Path, old: Mapping[str, Any]) -> bool:
        """Whether these images are those of a run whose config names other folders of them."""
        for split in self.roots:
            path = self._path(folder, split)
            if sources.is_noted(path):
                if sources.changes(path, self._list(split)):
                    return False
                continue
            root = (old.get(f"{split}_db_kwargs") or {}).get("root") or ""
            try:
                if not sources.are_same(list_files(Path(expand_path(root))), self._list(split)):
                    return False
            except (NoImagesError, ConfigError):
                warn(f"the images of this run were in {root}; those in {self.roots[split]} are taken to be the same")
        return True

    def _path(self, folder: Path, split: str) -> Path:
        return folder / f"images-{split}.npy"


def list_files(root: Path) -> ImageFiles:
    """The image files of a folder, without a message about them; raises NoImagesError when there are none."""
    paths = list_images(root).paths
    if not paths:
        raise NoImagesError(f"{root} holds no images; give the directory that holds them")
    return ImageFiles("folder", root, paths, torch.full((len(paths),), -1), [])
