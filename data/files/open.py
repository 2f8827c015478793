"""Image files as a data set: cached, streamed, or in memory."""

from pathlib import Path

import torch

from data.dataset import ImageDataset
from data.files.cache import open_cache
from data.files.decode import read_squares
from data.files.listing import ImageFiles, leave_out
from data.files.stream import StreamDataset

MEMORY_BUDGET = 8e9  # bytes of decoded images; a directory that needs more is streamed


def open_files(
    files: ImageFiles, split: str, side: int, *, streamed: bool, cache_dir: str | None, on_bad_image: str
) -> ImageDataset | StreamDataset:
    """Cache files where there is a directory for it, stream them, or read them into memory."""
    if cache_dir:
        return open_cache(files, split, side, Path(cache_dir), on_bad_image)
    if streamed:
        return StreamDataset(files, side, on_bad_image)
    return read_into_memory(files, side, on_bad_image)


def read_into_memory(files: ImageFiles, side: int, on_bad_image: str) -> ImageDataset:
    """Decode all images once, the short side scaled to `side` and the centre square cut.

    Raises UserError when images are bad and `on_bad_image` is not "skip".
    """
    images = torch.empty((len(files), 3, side, side), dtype=torch.uint8)
    bad: dict[int, str] = {}
    first = 0
    for squares, reasons in read_squares(files.full_paths(), side):
        images[first : first + len(squares)] = torch.from_numpy(squares)
        first += len(squares)
        bad |= reasons
    good = leave_out(files, bad, on_bad_image)
    if bad:
        images = images[[i for i in range(len(files)) if i not in bad]]
    return ImageDataset(good.name, images, good.targets, good.classes, good.paths, root=good.root)
