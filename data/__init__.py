"""Data sets: one file each, found by name."""

from collections.abc import Callable
from typing import Any

from data import cifar, digits, folder, imagenet, mnist, stl

# build(directory, split, size, /, **options): `directory` is where data sets are, `split` "train" or "val" (and
# "train+unlabeled" of stl-10), `size` the side that images of no fixed size are brought to. The options are what a
# config may give as train_db_kwargs and val_db_kwargs.
DATASETS: dict[str, Callable[..., Any]] = {
    "digits": digits.build,
    "mnist": mnist.build,
    "cifar-10": cifar.build_cifar10,
    "cifar-20": cifar.build_cifar20,
    "stl-10": stl.build,
    "folder": folder.build,
    **imagenet.BUILDERS,
}
