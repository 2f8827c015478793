"""Any directory of images, with classes where its sub-directories give them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from data.dataset import ImageDataset
from data.files.decode import SUFFIXES
from data.files.listing import ImageFiles, first_level, list_images
from data.files.open import MEMORY_BUDGET, open_files
from data.files.stream import StreamDataset
from system.console import say
from system.errors import UserError
from system.paths import expand_path
from system.sections import GivenPath, Positive
from system.text import shown

CROP_SHARE = 0.875  # 224 / 256: what a centre crop shows of a streamed image's short side


def build(
    directory: Path,
    split: str,
    size: int,
    /,
    *,
    root: GivenPath | None = None,
    classes: Sequence[str] | None = None,
    resize: Positive | None = None,
    stream: Literal["auto"] | bool = "auto",
    cache_dir: GivenPath | None = None,
    on_bad_image: Literal["error", "skip"] = "error",
) -> ImageDataset | StreamDataset:
    """Build a data set of a directory (`root` or else `directory`), read recursively.

    If every image lies in a sub-directory, the first level names its class, numbered in sorted order or, with
    `classes`, as given there; otherwise there are no labels. `resize` is the side that the short side is
    scaled to, `size` by default, or `size` / 0.875 where images are streamed. Raises UserError for a
    directory that is missing, empty, has bad images or a class that `classes` lacks.
    """
    files = find_images(Path(expand_path(root or directory)), split, classes)
    side, streamed = reading(len(files), size, resize, stream)
    return open_files(files, split, side, streamed=streamed, cache_dir=cache_dir, on_bad_image=on_bad_image)


def reading(num_images: int, size: int, resize: int | None, stream: bool | Literal["auto"]) -> tuple[int, bool]:
    """What the short side of a directory's images is scaled to, and whether they are streamed."""
    memory = resize or size
    streamed = num_images * 3 * memory * memory > MEMORY_BUDGET if stream == "auto" else stream
    return resize or (round(size / CROP_SHARE) if streamed else size), streamed


def find_images(root: Path, split: str, classes: Sequence[str] | None) -> ImageFiles:
    """List a directory's images with their targets, and say what was found."""
    paths, num_others = list_images(root)
    others = f"; {num_others:,} other files ignored" if num_others else ""
    if not paths:
        endings = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise UserError(f"{shown(root)} holds no images ({endings}){others}")
    folders = [first_level(path) for path in paths]
    if not all(folders):
        say(f"{split}: {len(paths):,} images without labels in {shown(root)}{others}")
        return ImageFiles("folder", root, paths, torch.full((len(paths),), -1), list(classes or []))
    found = [printable(folder) for folder in folders]
    names = list(classes or sorted(set(found)))
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise UserError(
            f"{shown(root)} has {len(unknown)} classes that are not in training: {', '.join(map(shown, unknown[:5]))}; "
            f"theirs are {', '.join(map(shown, names[:5]))}{', …' if len(names) > 5 else ''}"
        )
    say(f"{split}: {len(paths):,} images of {len(set(found)):,} classes in {shown(root)}{others}")
    numbers = {name: number for number, name in enumerate(names)}
    return ImageFiles("folder", root, paths, torch.tensor([numbers[name] for name in found]), names)


def printable(name: str) -> str:
    """A directory's name as text that can be written anywhere: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
