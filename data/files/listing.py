"""Directories of image files: what is in them, in an order that never changes."""

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from data.files.decode import SUFFIXES
from system.console import say
from system.errors import UserError
from system.text import shown

MAX_LINKS = 2  # linked directories within linked ones; more would let a few links multiply without end
NUM_SHOWN = 5


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

    def full_paths(self) -> list[str]:
        """Every file's path from here."""
        return [f"{self.root}/{path}" for path in self.paths]

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


def list_images(root: Path, folders: Sequence[str] | None = None) -> tuple[list[str], int]:
    """Find the images below a directory (or below some `folders` in it), by their file names' endings.

    Links are followed, those that lead back up are not. Hidden files and directories do not count as images.
    Returns relative paths, sorted by first-level directory, then by path, and the number of other files.
    Raises UserError when there is no such directory or one cannot be read.
    """
    if not root.is_dir():
        what = "is a file, not a directory" if root.exists() else "does not exist"
        raise UserError(f"{shown(root)} {what}; give the directory that holds the images")
    paths: list[str] = []
    num_others = 0
    pending = [(f"{folder}/", 0, frozenset([_identity(root)])) for folder in folders or []]
    if folders is None:
        pending = [("", 0, frozenset([_identity(root)]))]
    while pending:
        folder, num_links, above = pending.pop()
        for entry in _scan(f"{root}/{folder}"):
            path = folder + entry.name
            if _is_directory(entry):
                links, identity = num_links + entry.is_symlink(), _identity(entry.path)
                if not entry.name.startswith(".") and identity not in above and links <= MAX_LINKS:
                    pending.append((f"{path}/", links, above | {identity}))
            elif _is_image(entry):
                paths.append(path)
            else:
                num_others += 1
    return sorted(paths, key=lambda path: (first_level(path), path)), num_others


def first_level(path: str) -> str:
    """The first directory of a relative path; empty when there is none."""
    return path.partition("/")[0] if "/" in path else ""


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"the directory {shown(folder)} cannot be read: {reason}") from error


def _identity(path: Path | str) -> tuple[int, int]:
    stat = Path(path).stat()
    return stat.st_dev, stat.st_ino


def _is_directory(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink():
        return Path(entry.path).is_dir()  # a link to itself is no error here, as it would be in DirEntry's method
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
        raise UserError(f"{sentence}; mend or remove them, or leave them out with on_bad_image: skip")
    if len(bad) == len(files):
        raise UserError(f"{sentence}; no image is left")
    say(f"{sentence}; left out")
    return files.without(bad)
