"""Image files that a model is applied to, block by block, read as the folder it was trained on was read."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from data.dataset import ImageDataset
from data.files.listing import ImageFiles, list_images
from data.files.reading import Reading
from data.files.stream import CHECK_SIDE, StreamDataset
from data.files.workers import read_squares
from system.console import warn
from system.text import shown

BLOCK_BYTES = 256e6  # decoded images that are in memory at once
MOST, LEAST = 8192, 64  # images of a block


def list_inputs(words: Iterable[str]) -> Iterator[str]:
    """Every image file that the words name: a file is itself, a directory all images below it, in sorted order.

    Raises UserError when a directory cannot be read.
    """
    for word in words:
        if os.path.isdir(word):  # noqa: PTH112 (of a path that cannot be looked at Path.is_dir raises)
            listing = list_images(Path(word))
            for folder, reason in listing.unreadable.items():
                warn(f"skipped the folder '{shown(Path(word) / folder)}': {reason}")
            for path in listing.paths:
                yield str(Path(word) / path)
        else:
            yield word


def split_blocks(paths: Iterable[str], reading: Reading) -> Iterator[list[str]]:
    """Yield blocks of a few thousand files, as many as their decoded images may take of the memory."""
    size = int(min(max(BLOCK_BYTES // (3 * reading.side**2), LEAST), MOST))
    remaining = iter(paths)
    while block := list(islice(remaining, size)):
        yield block


def open_block(
    block: Sequence[str], reading: Reading
) -> tuple[ImageDataset | StreamDataset | None, list[str], dict[str, str]]:
    """Return a data set of the readable files of a block, their paths, and why others (by path) cannot be read.

    The data set is None when no file can be read.
    """
    dataset, bad = (_open_stream if reading.streamed else _open_memory)(block, reading)
    return dataset, [path for i, path in enumerate(block) if i not in bad], {block[i]: bad[i] for i in bad}


def _open_memory(paths: Sequence[str], reading: Reading) -> tuple[ImageDataset | None, dict[int, str]]:
    parts, bad = [], dict[int, str]()
    for squares, reasons in read_squares(paths, reading.side, reading.values):
        parts.append(torch.from_numpy(squares))
        bad.update(reasons)
    good = [i for i in range(len(paths)) if i not in bad]
    if not good:
        return None, bad
    images = torch.cat(parts)
    images = images[good] if bad else images
    return ImageDataset("images", images, _unknown(good), [], [paths[i] for i in good]), bad


def _open_stream(paths: Sequence[str], reading: Reading) -> tuple[StreamDataset | None, dict[int, str]]:
    bad: dict[int, str] = {}
    for _, reasons in read_squares(paths, CHECK_SIDE, reading.values, desc="checking images"):
        bad |= reasons
    good = [i for i in range(len(paths)) if i not in bad]
    if not good:
        return None, bad
    files = ImageFiles("images", Path(), [paths[i] for i in good], _unknown(good), [])
    return StreamDataset(files, reading), bad


def _unknown(good: Sequence[Any]) -> torch.Tensor:
    return torch.full((len(good),), -1)
