"""ImageNet (ILSVRC 2012) and the subsets of its classes, streamed from its class folders."""

import functools
from pathlib import Path
from typing import Literal

import torch

from data.dataset import ImageDataset
from data.files.listing import ImageFiles, first_level, list_classes, list_images
from data.files.open import open_files
from data.files.reading import Reading
from data.files.stream import StreamDataset
from system.bounded import read_bytes
from system.console import say, warn
from system.errors import UserError
from system.paths import expand_path
from system.sections import GivenPath, Side
from system.streams import decode_text
from system.text import shown

RESIZE = 256
LISTS = Path(__file__).parent / "imagenet_subsets"


def read_subset(name: str, path: Path) -> dict[str, str]:
    """Read a subset's list, a line `wnid name` a class: names by wnid, in the order that numbers the classes.

    Raises UserError when the list is missing or a line is not of that form.
    """
    if not path.is_file():
        raise UserError(
            f"the list of {name}'s classes is missing: {shown(path)}; it is not shipped with this project. "
            "Put the published text file there (a line `wnid name` a class), or give train_db_kwargs.subset_file=FILE"
        )
    try:
        lines = decode_text(read_bytes(path)).rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"the list {shown(path)} cannot be read: {error}") from error
    names: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        wnid, name_of_class = [*line.split(maxsplit=1), "", ""][:2]
        if not (wnid.startswith("n") and wnid[1:].isdigit()) or wnid in names:
            what = "names a class again" if wnid in names else "does not read `wnid name`"
            raise UserError(f"{shown(path)}, line {number} {what}: {shown(line, 80)}")
        names[wnid] = name_of_class.strip() or wnid
    if not names:
        raise UserError(f"the list {shown(path)} is empty; it needs a line `wnid name` a class")
    return names


def find_images(name: str, root: Path, split: str, subset: dict[str, str] | None, on_bad_image: str) -> ImageFiles:
    """List the images of a split, class folders sorted and files sorted within, with their targets.

    Classes have the numbers that they have in training, where that split is there; others follow.
    """
    folder = root / f"ILSVRC2012_img_{split}"
    if not folder.is_dir():
        raise UserError(
            f"{name} is not in {shown(root)}: {folder.name} is missing there, and it cannot be "
            "downloaded from here. Put ILSVRC2012_img_{train,val}/<wnid>/*.JPEG there, or name the directory "
            f"that holds them: data_paths.{name}=DIR (or in env.yml)"
        )
    absent = [wnid for wnid in subset or [] if not (folder / wnid).is_dir()]
    if absent:
        raise UserError(
            f"{shown(folder)} lacks {len(absent)} classes of {name}: {', '.join(absent[:5])}; add their folders"
        )
    listing = list_images(folder, sorted(subset) if subset else None)
    listing.check_unreadable(folder, on_bad_image)
    paths = listing.paths
    found = [first_level(path) for path in paths]
    if not paths or not all(found):
        what = "images outside class folders" if paths else "no images"
        raise UserError(f"{shown(folder)} has {what}; it must hold <wnid>/*.JPEG for every class")
    training = root / "ILSVRC2012_img_train"
    known = list_classes(training) if split != "train" and training.is_dir() else []
    unknown = sorted(set(found) - set(known))
    names = subset or {wnid: wnid for wnid in [*known, *unknown]}
    if known and unknown and not subset:
        warn(f"{shown(folder)} has classes that are not in training ({len(unknown)}): {', '.join(unknown[:5])}")
    numbers = {wnid: number for number, wnid in enumerate(names)}
    others = f"; {listing.words}" if listing.words else ""
    say(f"{split}: {len(paths):,} images of {len(names):,} classes in {shown(folder)}{others}")
    return ImageFiles(name, folder, paths, torch.tensor([numbers[wnid] for wnid in found]), list(names.values()))


def build(
    name: str,
    directory: Path,
    split: str,
    size: int,
    /,
    *,
    root: GivenPath | None = None,
    subset_file: GivenPath | None = None,
    resize: Side | None = None,
    stream: Literal["auto"] | bool = "auto",
    cache_dir: GivenPath | None = None,
    on_bad_image: Literal["error", "skip"] = "error",
) -> ImageDataset | StreamDataset:
    """Build `imagenet` or a subset; short side 256 (or `resize`), streamed unless `stream` is false.

    Args:
        root: the directory with its files; by default that of env.yml.
        subset_file: the list of a subset's classes; by default `data/imagenet_subsets/<name>.txt`.
        resize: what the short side is scaled to; by default 256, or the crop size where that is larger.
        stream: whether images are decoded while training; auto: yes.
        cache_dir: where decoded images are kept between runs.
        on_bad_image: whether an image that cannot be read ends the run or is left out.

    Raises:
        UserError: the images, or the list, are missing.
    """
    subset = None if name == "imagenet" else read_subset(name, Path(expand_path(subset_file or LISTS / f"{name}.txt")))
    files = find_images(name, Path(expand_path(root or directory)), split, subset, on_bad_image)
    side, streamed = reading(size, resize, stream)
    read = Reading(side, streamed and not cache_dir, resized_first=True)
    return open_files(files, split, read, streamed=streamed, cache_dir=cache_dir, on_bad_image=on_bad_image)


def reading(size: int, resize: int | None, stream: bool | Literal["auto"]) -> tuple[int, bool]:
    """What the short side of the images is scaled to, and whether they are streamed."""
    return resize or max(RESIZE, size), stream is not False


BUILDERS = {
    name: functools.partial(build, name) for name in ("imagenet", "imagenet_50", "imagenet_100", "imagenet_200")
}
