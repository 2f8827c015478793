"""Any directory of images, with classes where its sub-directories give them."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from data.dataset import ImageDataset
from data.files.formats import SUFFIXES
from data.files.listing import ImageFiles, NoImagesError, list_images
from data.files.open import MEMORY_BUDGET, open_files
from data.files.reading import Found, Reading, look
from data.files.stream import StreamDataset
from data.files.values import Values
from data.labels import read_labels
from system.console import say, warn
from system.errors import UserError
from system.paths import expand_path
from system.sections import GivenPath, Side
from system.text import shown

CROP_SHARE = 0.875  # 224 / 256: what a center crop shows of a streamed image's short side
UNKNOWN = ""  # the label of an image that a table has no label for
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "unlabeled"})


def build(
    directory: Path,
    split: str,
    size: int,
    values: Values | None = None,
    /,
    *,
    root: GivenPath | None = None,
    classes: Sequence[str] | None = None,
    labels: GivenPath | None = None,
    resize: Side | None = None,
    stream: Literal["auto"] | bool = "auto",
    cache_dir: GivenPath | None = None,
    on_bad_image: Literal["error", "skip"] = "error",
) -> ImageDataset | StreamDataset:
    """Build a data set of a directory (`root` or else `directory`), read recursively.

    If every image is in a sub-directory, the first level names its class, numbered in sorted order or, with
    `classes`, as given there; otherwise there are no labels. A table of `labels` takes the place of sub-directories.

    Args:
        root: the directory.
        classes: names of the classes in the order of their numbers.
        labels: a .csv file with the columns path, relative to the directory, and label; without a row: unknown.
            A run does not notice an edit of it.
        resize: what the short side is scaled to; by default the crop size, divided by 0.875 where images are streamed,
            and in a validation split as in training.
        stream: whether images are decoded while training; auto: where a split would take more than 8 GB of memory.
        cache_dir: where decoded images are kept between runs.
        values: those by which wide gray was read before; without them the images are looked at.
        on_bad_image: whether an image that cannot be read ends the run or is left out.

    Raises:
        UserError: a directory that is missing or empty, has bad images or a class that `classes` lacks.
    """
    table = Path(expand_path(labels)) if labels else None
    files = find_images(Path(expand_path(root or directory)), split, classes, on_bad_image, table=table)
    side, streamed = reading(len(files), size, resize, stream)
    values, found = look(files) if values is None else (values, Found())
    read = Reading(side, streamed and not cache_dir, values, found)
    say(f"{split}: read as {read.words}")
    return open_files(files, split, read, streamed=streamed, cache_dir=cache_dir, on_bad_image=on_bad_image)


def reading(num_images: int, size: int, resize: int | None, stream: bool | Literal["auto"]) -> tuple[int, bool]:
    """What the short side of a directory's images is scaled to, and whether they are streamed."""
    memory = resize or size
    streamed = num_images * 3 * memory * memory > MEMORY_BUDGET if stream == "auto" else stream
    return resize or (round(size / CROP_SHARE) if streamed else size), streamed


def find_images(
    root: Path,
    split: str,
    classes: Sequence[str] | None,
    on_bad_image: str = "skip",
    quiet: bool = False,
    table: Path | None = None,
) -> ImageFiles:
    """List a directory's images with their targets, from a `table` or else sub-directories; say what was found."""
    listing = list_images(root)
    paths, others = listing.paths, f"; {listing.words}" if listing.words else ""
    if not quiet:
        listing.check_unreadable(root, on_bad_image)
    if not paths:
        endings = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise NoImagesError(
            f"{shown(root)} holds no images ({endings}){others}; give the directory that holds the images"
        )
    labels, why = (_look_up(paths, table, root), "") if table else find_labels(paths, classes)
    if labels is None:
        names, targets = list(classes or []), torch.full((len(paths),), -1)
        what = f"images without labels{why}"
    else:
        names = list(classes or sorted(set(labels) - {UNKNOWN}))
        unknown = sorted(set(labels) - {UNKNOWN} - set(names))
        if unknown:
            raise UserError(
                f"{shown(root)} has {len(unknown)} classes that are not in training: "
                f"{', '.join(map(shown, unknown[:5]))}; theirs are {', '.join(map(shown, names[:5]))}"
                f"{', …' if len(names) > 5 else ''}"
            )
        numbers = {UNKNOWN: -1} | {name: number for number, name in enumerate(names)}
        targets = torch.tensor([numbers[label] for label in labels])
        what = f"images of {len(set(labels) - {UNKNOWN}):,} classes"
    if not quiet:
        say(f"{split}: {len(paths):,} {what} in {shown(root)}{others}")
        _warn_of_splits(root, paths)
    return ImageFiles("folder", root, paths, targets, names)


def find_labels(paths: Sequence[str], classes: Sequence[str] | None) -> tuple[list[str] | None, str]:
    """The class of every image of a directory, by the first level that holds several; None, and why, without labels.

    Folders are not classes when there is one alone, when none holds two images, or when they are the splits of a data
    set. Where the `classes` of a training split are given, folders with their names always are.
    """
    folders = [path.split("/")[:-1] for path in paths]
    if classes and all(parts and printable(parts[0]) in classes for parts in folders):
        return [printable(parts[0]) for parts in folders], ""
    depth = len(_wrappers(paths))
    if not all(len(parts) > depth for parts in folders):
        if not any(len(parts) > depth for parts in folders):
            return None, " (they are in one folder)" if depth else ""
        above = [path for path, parts in zip(paths, folders, strict=True) if len(parts) <= depth]
        others = f" and {len(above) - 1:,} more are" if len(above) > 1 else " is"
        return None, f" ('{shown(above[0])}'{others} in none of the folders)"
    labels = [printable(parts[depth]) for parts in folders]
    if not classes and max(Counter(labels).values()) == 1:
        return None, " (every folder holds one image)"
    if not classes and {label.lower() for label in labels} <= SPLITS:
        return None, ""  # warned of
    return labels, ""


def _look_up(paths: Sequence[str], table: Path, root: Path) -> list[str]:
    """The label of every image of a directory by a table; raises UserError for a row of no such image."""
    given = read_labels(table)
    gone = sorted(given.keys() - set(paths))
    if gone:
        raise UserError(f"{table} has a label for {shown(gone[0])}, which is not in {shown(root)} ({len(gone):,} such)")
    return [given.get(path, UNKNOWN) for path in paths]


def _wrappers(paths: Sequence[str]) -> list[str]:
    """The folders that are alone around all the others."""
    around = os.path.commonpath([path.rpartition("/")[0] for path in paths])
    return around.split("/") if around else []


def _warn_of_splits(root: Path, paths: Sequence[str]) -> None:
    around = _wrappers(paths)
    folders = [path.split("/")[len(around) : -1] for path in paths]
    top = {parts[0] for parts in folders if parts}
    splits = sorted(name for name in top if name.lower() in SPLITS)
    if len(splits) > 1:
        taken = "are taken together, without labels" if len(splits) == len(top) else "count as classes"
        warn(
            f"{' and '.join(map(shown, splits))} in {shown(root)} look like the splits of a data set, not like "
            f"classes; they {taken}. To use one of them, give {shown(root.joinpath(*around, splits[0]))}"
        )


def printable(name: str) -> str:
    """A directory's name as text that can be written anywhere: bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
