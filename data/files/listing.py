"""Directories of image files: what is in them, in an order that never changes."""

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from data.files.formats import SUFFIXES, ending
from system.console import say, warn
from system.errors import UserError
from system.text import shown

MAX_LINKS = 2  # linked directories within linked ones; more would let a few links multiply without end
NUM_SHOWN = 5
SYSTEMS = frozenset(
    {"@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", "$recycle.bin", "recycler"}
    | {"system volume information", "lost+found", "__macosx"}
)
"""Directories, in lower case, that network storages, Windows, Linux and macOS make next to a user's own."""


class NoImagesError(UserError):
    """There is no such directory, or no image in it: it may have been moved."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files below a root: paths relative to it, targets int64 [N] (-1 unknown), class names."""

    name: str
    root: Path
    paths: list[str]
    targets: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.paths)

    def full_path(self, index: int) -> str:
        """A file's path from here; one that is whole already stays."""
        return os.path.join(self.root, self.paths[index])  # noqa: PTH118 (a Path for each of a million takes long)

    def full_paths(self) -> list[str]:
        """Every file's path from here."""
        return list(map(self.full_path, range(len(self))))

    def without(self, bad: Collection[int]) -> "ImageFiles":
        """Leave out files by position."""
        keep = [i for i in range(len(self)) if i not in bad]
        return replace(self, paths=[self.paths[i] for i in keep], targets=self.targets[keep])

    def fingerprint(self, *, times: bool = False) -> str:
        """SHA-256 over relative paths and file sizes (and modification times), in order."""
        digest = hashlib.sha256()
        for path, full in zip(self.paths, self.full_paths(), strict=True):
            try:
                stat = Path(full).stat()
                facts = [stat.st_size, stat.st_mtime_ns] if times else [stat.st_size]
            except OSError:
                facts = []
            digest.update(os.fsencode(path) + b"\0" + repr(facts).encode() + b"\n")
        return digest.hexdigest()


class Listing(NamedTuple):
    """What is below a directory, as paths relative to it."""

    paths: list[str]
    """Images, sorted by first-level directory, then by path."""
    others: Counter[str]
    """How many other files there are, by their ending."""
    systems: list[str]
    """Directories that systems made for themselves, which were not looked into."""
    unreadable: dict[str, str]
    """Directories that cannot be read, and why."""

    @property
    def words(self) -> str:
        """What is not an image, or was left out, in words; empty when there is nothing."""
        parts = []
        if num_others := self.others.total():
            common = sorted(self.others.items(), key=lambda item: (-item[1], item[0]))[:NUM_SHOWN]
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in common)
            more = ", …" if len(self.others) > NUM_SHOWN else ""
            parts.append(f"{num_others:,} other files ignored ({kinds}{more})")
        if self.systems:
            parts.append(f"system folders left out: {_some(self.systems)}")
        return "; ".join(parts)

    def check_unreadable(self, root: Path, on_bad_image: str) -> None:
        """Warn of directories that cannot be read; raises UserError when bad images are to be an error."""
        if not self.unreadable:
            return
        named = _some([f"'{shown(path)}' ({reason})" for path, reason in self.unreadable.items()], quote=False)
        sentence = f"{len(self.unreadable):,} folders in {shown(root)} cannot be read: {named}"
        if on_bad_image != "skip":
            raise UserError(f"{sentence}; make them readable, or leave them out with on_bad_image: skip")
        warn(f"{sentence}; left out")


def _some(names: Sequence[str], quote: bool = True) -> str:
    first = [f"'{shown(name)}'" if quote else name for name in names[:NUM_SHOWN]]
    return ", ".join(first) + (f" and {len(names) - NUM_SHOWN:,} more" if len(names) > NUM_SHOWN else "")


def list_images(root: Path, folders: Sequence[str] | None = None) -> Listing:
    """Find the images below a directory (or below some `folders` in it), by their file names' endings.

    Links are followed, those that lead back up are not. Hidden files and directories do not count as images, nor does
    what storage systems and file managers keep for themselves. Raises NoImagesError when there is no such
    directory, UserError when it cannot be read; one below it that cannot be read is named in the result.
    """
    if not root.is_dir():
        what = "is a file, not a directory" if root.exists() else "does not exist"
        raise NoImagesError(f"{shown(root)} {what}; give the directory that holds the images")
    found = Listing([], Counter(), [], {})
    above = frozenset([_identity(root)])
    pending = (
        [("", 0, above)]
        if folders is None
        else [(f"{folder}/", 0, above | {_identity(root / folder)}) for folder in folders]
    )
    while pending:
        folder, num_links, above = pending.pop()
        try:
            entries = _scan(f"{root}/{folder}")
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            if not folder:
                raise UserError(f"the directory {shown(root)} cannot be read: {reason}") from error
            found.unreadable[folder.rstrip("/")] = reason
            continue
        for entry in entries:
            path = folder + entry.name
            try:
                if not _is_directory(entry):
                    _add_file(found, entry, path)
                elif entry.name.lower() in SYSTEMS:
                    found.systems.append(path)
                elif not entry.name.startswith("."):
                    links, identity = num_links + entry.is_symlink(), _identity(entry.path)
                    if identity not in above and links <= MAX_LINKS:
                        pending.append((f"{path}/", links, above | {identity}))
            except OSError as error:
                found.unreadable[path] = (error.strerror or str(error)).lower()
    found.paths.sort(key=lambda path: (first_level(path), path))
    found.systems.sort()
    return found._replace(unreadable=dict(sorted(found.unreadable.items())))


def list_classes(root: Path) -> list[str]:
    """The directories right below one that hold an image, sorted: those of `list_images`, found sooner."""
    found = []
    for entry in _scan(str(root)):
        if entry.name.startswith(".") or entry.name.lower() in SYSTEMS or not _is_directory(entry):
            continue
        with contextlib.suppress(OSError):  # as there, what cannot be read counts as empty
            if any(map(_is_image, _scan(entry.path))) or list_images(root, [entry.name]).paths:
                found.append(entry.name)
    return sorted(found)


def _add_file(found: Listing, entry: os.DirEntry[str], path: str) -> None:
    if _is_image(entry):
        found.paths.append(path)
    else:
        found.others[ending(entry.name)] += 1


def first_level(path: str) -> str:
    """The first directory of a relative path; empty when there is none."""
    return path.partition("/")[0] if "/" in path else ""


def _scan(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _identity(path: Path | str) -> tuple[int, int]:
    stat = Path(path).stat()
    return stat.st_dev, stat.st_ino


def _is_directory(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink():
        return Path(entry.path).is_dir()  # a link to itself is not an error here, as it would be in DirEntry's method
    return entry.is_dir(follow_symlinks=False)


def _is_image(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in SUFFIXES:
        return False
    if entry.is_symlink():  # a broken link was meant to be an image: it is named among the bad ones
        return Path(entry.path).is_file() or not Path(entry.path).exists()
    return entry.is_file(follow_symlinks=False)


def leave_out(files: ImageFiles, bad: dict[int, str], on_bad_image: str) -> ImageFiles:
    """Leave out bad images (a dict from position to reason) and say so.

    Raises UserError when they are to be an error, or when no good one is left.
    """
    if not bad:
        return files
    first = [f"'{shown(files.paths[i])}' ({reason})" for i, reason in list(bad.items())[:NUM_SHOWN]]
    more = f" and {len(bad) - NUM_SHOWN:,} more" if len(bad) > NUM_SHOWN else ""
    count = f"{len(bad):,} of {len(files):,} images in {shown(files.root)}"
    sentence = f"{count} cannot be read: {', '.join(first)}{more}"
    if on_bad_image != "skip":
        raise UserError(
            f"{sentence}; repair or remove them, or leave them out with "
            "on_bad_image: skip in train_db_kwargs (val_db_kwargs)"
        )
    if len(bad) == len(files):
        raise UserError(f"{sentence}; no image is left, so give another folder")
    say(f"{sentence}; left out")
    return files.without(bad)
