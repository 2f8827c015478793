"""Images of a data set's shape, to try a run where the data set itself is not there."""

import torch

from data.dataset import ImageDataset

# Side, number of classes and number of images of each split.
SHAPES: dict[str, tuple[int, int, dict[str, int]]] = {
    "cifar-10": (32, 10, {"train": 50_000, "val": 10_000, "train+test": 60_000}),
    "cifar-20": (32, 20, {"train": 50_000, "val": 10_000, "train+test": 60_000}),
    "mnist": (28, 10, {"train": 60_000, "val": 10_000, "train+test": 70_000}),
    "stl-10": (96, 10, {"train": 5_000, "train+unlabeled": 105_000, "val": 8_000}),
}


def make_up(name: str, split: str) -> ImageDataset:
    """As many images of noise as the data set has, all of them the same one, so that they take no memory."""
    side, num_classes, sizes = SHAPES[name]
    noise = torch.randint(256, (1, 3, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    num = sizes[split]
    classes = [str(number) for number in range(num_classes)]
    paths = [f"made up/{number}" for number in range(num)]
    return ImageDataset(name, noise.expand(num, -1, -1, -1), torch.arange(num) % num_classes, classes, paths)
