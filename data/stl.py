"""STL-10: 5,000 labeled, 100,000 unlabeled and 8,000 test images of 96x96, from the published files."""

from pathlib import Path

import numpy as np
import torch

from data.dataset import ImageDataset
from data.download import locate
from system.bounded import read_bytes
from system.errors import ConfigError, UserError
from system.sections import GivenPath

SIDE = 96
NUM_BYTES = 3 * SIDE * SIDE
FOLDER = "stl10_binary"
URL = "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"
MD5 = "91f7769df0f17e558f3565bffb0c7dfb"
NAMES = "class_names.txt"
BLOCK = 1000  # images turned at a time
CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
PARTS = {
    "train": ["train"],
    "train+unlabeled": ["train", "unlabeled"],
    "unlabeled": ["unlabeled"],
    "val": ["test"],
    "test": ["test"],
}
LABELED = {"train", "test"}


def _count_images(path: Path) -> int:
    num_bytes = path.stat().st_size
    if num_bytes == 0 or num_bytes % NUM_BYTES:
        raise UserError(
            f"{path} has {num_bytes:,} bytes, which is not a whole number of images of {NUM_BYTES:,} bytes; "
            "delete it to download it again"
        )
    return num_bytes // NUM_BYTES


def _read_images(path: Path, images: torch.Tensor) -> None:
    """Fill uint8 [N, 3, 96, 96]; the file holds the columns of each channel one after the other."""
    columns = np.memmap(path, dtype=np.uint8, mode="r", shape=tuple(images.shape))
    for first in range(0, len(images), BLOCK):
        block = np.array(columns[first : first + BLOCK])
        images[first : first + BLOCK] = torch.from_numpy(block).transpose(2, 3)


def _read_targets(path: Path, num_images: int, num_classes: int) -> torch.Tensor:
    if path.stat().st_size != num_images:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes for {num_images:,} images; delete it to download it again"
        )
    targets = torch.from_numpy(np.fromfile(path, dtype=np.uint8).astype(np.int64)) - 1
    if targets.min() < 0 or targets.max() >= num_classes:
        raise UserError(f"{path} holds labels outside 1 to {num_classes}; delete it to download it again")
    return targets


def build(directory: Path, split: str, size: int, /, *, root: GivenPath | None = None) -> ImageDataset:
    """Build STL-10's "train", "unlabeled", both as "train+unlabeled" (targets -1 where unlabeled), or "val", its test
    split.

    96x96 whatever `size` is.

    Args:
        root: the directory with its files; by default that of env.yml.

    Raises:
        UserError: files have a wrong size, or are missing and cannot be downloaded.
    """
    if split not in PARTS:
        raise ConfigError(f"stl-10 has no split '{split}'; it has {', '.join(PARTS)}")
    parts = PARTS[split]
    files = [f"{part}_X.bin" for part in parts] + [f"{part}_y.bin" for part in parts if part in LABELED]
    folder = locate("stl-10", Path(root or directory), FOLDER, files, URL, MD5)
    names = folder / NAMES
    classes = (read_bytes(names).decode("utf-8", "replace").split() if names.is_file() else []) or CLASSES
    counts = [_count_images(folder / f"{part}_X.bin") for part in parts]
    images = torch.empty((sum(counts), 3, SIDE, SIDE), dtype=torch.uint8)
    targets = torch.full((sum(counts),), -1)
    first = 0
    for part, count in zip(parts, counts, strict=True):
        rows = slice(first, first + count)
        _read_images(folder / f"{part}_X.bin", images[rows])
        if part in LABELED:
            targets[rows] = _read_targets(folder / f"{part}_y.bin", count, len(classes))
        first += count
    paths = [f"{part}_X/{i:06d}" for part, count in zip(parts, counts, strict=True) for i in range(count)]
    return ImageDataset("stl-10", images, targets, classes, paths, root=folder)
