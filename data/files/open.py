"""Image files as a data set: cached, streamed, or in memory."""

from pathlib import Path

import torch

from data.dataset import ImageDataset
from data.files.cache import open_cache
from data.files.listing import ImageFiles, leave_out
from data.files.reading import Reading
from data.files.stream import StreamDataset
from data.files.workers import read_squares

MEMORY_BUDGET = 8e9  # bytes of decoded images; a directory that needs more is streamed


def open_files(
    files: ImageFiles, split: str, read: Reading, *, streamed: bool, cache_dir: str | None, on_bad_image: str
) -> ImageDataset | StreamDataset:
    """Cache files where there is a directory for it, stream them, or read them into memory."""
    dataset: ImageDataset | StreamDataset
    if cache_dir:
        dataset = open_cache(files, split, read, Path(cache_dir), on_bad_image)
    elif streamed:
        dataset = StreamDataset(files, read, on_bad_image)
    else:
        dataset = read_into_memory(files, read, on_bad_image)
    dataset.reading = read
    return dataset


def read_into_memory(files: ImageFiles, read: Reading, on_bad_image: str) -> ImageDataset:
    """Decode all images once, the short side scaled to one length and the center square cut.

    Raises UserError when images are bad and `on_bad_image` is not "skip".
    """
    side = read.side
    images = torch.empty((len(files), 3, side, side), dtype=torch.uint8)
    bad: dict[int, str] = {}
    num_seen = num_good = 0
    for squares, reasons in read_squares(files.full_paths(), side, read.values):
        good_ones = squares[[num_seen + i not in reasons for i in range(len(squares))]]
        images[num_good : num_good + len(good_ones)] = torch.from_numpy(good_ones)
        num_seen, num_good = num_seen + len(squares), num_good + len(good_ones)
        bad |= reasons
    good = leave_out(files, bad, on_bad_image)
    return ImageDataset(good.name, images[:num_good], good.targets, good.classes, good.paths, root=good.root)
