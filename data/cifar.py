"""CIFAR-10, and CIFAR-100 under its 20 coarse labels, from the published pickles.

Pickles can run any code when they are read. These are read by an unpickler that knows a few names and looks
up none of them: small classes stand in for NumPy's, and they only keep bytes, a shape and a type.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import ImageDataset, Whole
from data.download import locate
from system.bounded import what_it_is
from system.errors import UserError
from system.pickles import MAX_OPCODES_OF_LISTS, RestrictedUnpickler, _Array, check_opcodes
from system.sections import GivenPath

SIDE = 32
ANEW = "delete its directory to download it again"
NUM_CLASSES = {"cifar-10": 10, "cifar-20": 20}


@dataclass(frozen=True)
class _Source:
    folder: str
    url: str
    md5: str
    files: dict[str, list[str]]  # per split
    labels: str
    meta: str
    names: str


SOURCES = {
    "cifar-10": _Source(
        folder="cifar-10-batches-py",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        files={"train": [f"data_batch_{i}" for i in range(1, 6)], "val": ["test_batch"]},
        labels="labels",
        meta="batches.meta",
        names="label_names",
    ),
    "cifar-20": _Source(
        folder="cifar-100-python",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        files={"train": ["train"], "val": ["test"]},
        labels="coarse_labels",
        meta="meta",
        names="coarse_label_names",
    ),
}


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a published CIFAR file without running anything in it. Raises UserError when it is not one."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            check_opcodes(data, MAX_OPCODES_OF_LISTS)
            data.seek(0)
            content = RestrictedUnpickler(data, encoding="latin1").load()
    except Exception as error:  # hostile bytes make the unpickler raise nearly anything
        what = what_it_is(path) if path.is_file() else None
        reason = f"it is {what}" if what and not what.startswith("a pickle") else error
        raise UserError(f"{path} is not a CIFAR file ({reason}); {ANEW}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a CIFAR file (not a dict); {ANEW}")
    return content


def _read_names(path: Path, key: str, num_classes: int) -> list[str]:
    numbers = [str(number) for number in range(num_classes)]
    names = read_pickle(path).get(key, numbers) if path.exists() else numbers
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise UserError(f"{path} holds no class names under {key!r}; {ANEW}")
    return names


def _read_batch(path: Path, key: str, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    content = read_pickle(path)
    data, labels = getattr(content.get("data"), "value", None), content.get(key)
    if isinstance(labels, _Array) and labels.value is not None:
        labels = labels.value.tolist()
    if data is None or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * SIDE * SIDE:
        found = "none" if data is None else f"an array {list(data.shape)} of {data.dtype}"
        raise UserError(f"{path} holds no images [N, {3 * SIDE * SIDE}] of bytes under 'data' but {found}; {ANEW}")
    if not isinstance(labels, list) or len(labels) != len(data):
        found = f"{len(labels)}" if isinstance(labels, list) else "no"
        raise UserError(f"{path} holds {found} labels under {key!r} for {len(data)} images; {ANEW}")
    if not all(type(label) is int and 0 <= label < num_classes for label in labels):
        raise UserError(f"{path} holds labels under {key!r} that are not numbers from 0 to {num_classes - 1}; {ANEW}")
    images = torch.from_numpy(data.reshape(-1, 3, SIDE, SIDE).copy())
    return images, torch.tensor(labels, dtype=torch.int64)


def _build(name: str, directory: Path, own: str, split: Whole | None) -> ImageDataset:
    source = SOURCES[name]
    files = [file for part in (source.files if split else [own]) for file in source.files[part]]
    folder = locate(name, directory, source.folder, files, source.url, source.md5)
    classes = _read_names(folder / source.meta, source.names, NUM_CLASSES[name])
    batches = [_read_batch(folder / file, source.labels, len(classes)) for file in files]
    paths = [f"{file}/{i:05d}" for file, (images, _) in zip(files, batches, strict=True) for i in range(len(images))]
    images, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return ImageDataset(name, images, targets, classes, paths, root=folder)


def build_cifar10(
    directory: Path, own: str, size: int, /, *, root: GivenPath | None = None, split: Whole | None = None
) -> ImageDataset:
    """Build CIFAR-10, batches 1 to 5 in order or the test batch; 32x32 whatever `size` is.

    Args:
        root: the directory with its files; by default that of env.yml.
        split: train+test for all 60,000 images, as some methods are trained and scored; by default its own.

    Raises:
        UserError: the files are damaged, or missing and cannot be downloaded.
    """
    return _build("cifar-10", Path(root or directory), own, split)


def build_cifar20(
    directory: Path, own: str, size: int, /, *, root: GivenPath | None = None, split: Whole | None = None
) -> ImageDataset:
    """Build CIFAR-100 with its 20 coarse labels; 32x32 whatever `size` is.

    Args:
        root: the directory with its files; by default that of env.yml.
        split: train+test for all 60,000 images, as some methods are trained and scored; by default its own.

    Raises:
        UserError: the files are damaged, or missing and cannot be downloaded.
    """
    return _build("cifar-20", Path(root or directory), own, split)
