"""MNIST: 60,000 training and 10,000 test images of handwritten digits, 28x28, from the published idx files."""

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from data.dataset import ImageDataset, Whole
from data.download import find, locate
from system.bounded import what_it_is
from system.errors import UserError
from system.paths import open_regular
from system.sections import GivenPath

FOLDER = "MNIST/raw"
URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
NAMES = {"train": "train", "val": "t10k"}
NUM_CLASSES = 10
SIDE = 28
ANEW = "delete it to download it again"
BYTES = 8  # an idx file's third byte says what its numbers are
MOST_PACKED = 1032  # bytes that a packed one can stand for
BLOCK = 1 << 24


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A file's contents, unpacked, and how many bytes they can be at most; UserError where they cannot be read."""
    try:
        with open_regular(path) as file:
            size = path.stat().st_size
            if path.suffix != ".gz":
                yield file, size
            else:
                with gzip.open(file) as unpacked:
                    yield unpacked, MOST_PACKED * size  # type: ignore[misc]
    except (OSError, EOFError, zlib.error) as error:
        what = what_it_is(path)
        reason = f"it is {what}" if what and not what.startswith("a packed") else error
        raise UserError(f"{path} cannot be read ({reason}); {ANEW}") from error


def read_idx(path: Path, num_dims: int) -> np.ndarray:
    """The bytes of an idx file, plain or packed (.gz), uint8 with `num_dims` dimensions.

    What the header promises is held against the file's size before anything is allocated. Raises UserError.
    """
    with _opened(path) as (file, most):
        header = file.read(4 + 4 * num_dims)
        if len(header) < 4 + 4 * num_dims or header[:4] != bytes([0, 0, BYTES, num_dims]):
            what = what_it_is(path)
            reason = f"it is {what}" if what and not what.startswith("a packed") else "its header is another"
            raise UserError(f"{path} is no idx file of bytes with {num_dims} dimensions ({reason}); {ANEW}")
        shape = tuple(int(size) for size in np.frombuffer(header[4:], ">u4"))
        num_bytes = int(np.prod(shape, dtype=object))
        if num_bytes == 0 or num_bytes > most:
            words = "x".join(f"{size:,}" for size in shape)
            raise UserError(f"{path} is damaged: its header promises {words} numbers, which it cannot hold; {ANEW}")
        parts, left = [], num_bytes
        while left and (part := file.read(min(left, BLOCK))):  # what is allocated is what is there
            parts.append(part)
            left -= len(part)
        if left or file.read(1):
            words = f"{left:,} fewer" if left else "more"
            raise UserError(f"{path} is damaged: it holds {words} bytes than its header promises; {ANEW}")
    return np.frombuffer(b"".join(parts), np.uint8).reshape(shape)


def _read_split(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 28, 28] and labels [N] of the files of that name."""
    images_path, labels_path = (
        find(folder, file) or folder / file for file in (f"{name}-images-idx3-ubyte", f"{name}-labels-idx1-ubyte")
    )
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise UserError(f"{images_path} holds images of {images.shape[2]}x{images.shape[1]}, not 28x28; {ANEW}")
    if len(labels) != len(images):
        raise UserError(f"{labels_path} holds {len(labels):,} labels for {len(images):,} images; {ANEW}")
    if labels.max() >= NUM_CLASSES:
        raise UserError(f"{labels_path} holds the label {labels.max()}; MNIST's are 0 to 9; {ANEW}")
    return images, labels


def build(
    directory: Path, own: str, size: int, /, *, root: GivenPath | None = None, split: Whole | None = None
) -> ImageDataset:
    """Build MNIST's "train", or its test split as "val": 28x28 whatever `size` is, three equal channels.

    The files are plain or packed (.gz), as torchvision lays them out: MNIST/raw/train-images-idx3-ubyte.

    Args:
        root: the directory where it lies; by default that of env.yml.
        split: train+test for all 70,000 images, as some methods are trained and scored; by default its own.

    Raises:
        UserError: files are damaged, or missing and cannot be downloaded.
    """
    names = list(NAMES.values()) if split else [NAMES[own]]
    files = [f"{name}-{kind}-ubyte" for name in names for kind in ("images-idx3", "labels-idx1")]
    folder = locate("mnist", Path(root or directory), FOLDER, files, URL, MD5)
    parts = [_read_split(folder, name) for name in names]
    images, labels = (np.concatenate(both) for both in zip(*parts, strict=True))
    return ImageDataset(
        "mnist",
        torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1),  # one copy in memory, not three
        torch.from_numpy(labels.astype(np.int64)),
        [str(digit) for digit in range(NUM_CLASSES)],
        [f"{name}/{i:05d}" for name, (found, _) in zip(names, parts, strict=True) for i in range(len(found))],
        root=folder,
    )
