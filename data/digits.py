"""scikit-learn's handwritten digits: 1,797 images that come with the library."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.dataset import ImageDataset
from system.sections import Positive

NUM_TRAIN = 1437
SIDE = 16


def build(directory: Path, split: str, size: int, /, *, num_images: Positive | None = None) -> ImageDataset:
    """Build digits: 8x8 gray levels 0..16, bicubic to 16x16, three equal channels.

    The first 1,437 images are the training split, the last 360 the validation split. Nothing is read from
    disk, and the images have one size, so that directory and size do not matter.

    Args:
        num_images: how many of the split are used, its first ones; by default all.
    """
    from sklearn.datasets import load_digits  # takes a second that other data sets need not wait

    digits = load_digits()
    first, last = {"train": (0, NUM_TRAIN), "val": (NUM_TRAIN, len(digits.images))}[split]
    part = slice(first, last if num_images is None else min(last, first + num_images))
    levels = np.rint(digits.images[part] * (255 / 16)).astype(np.uint8)
    gray = [Image.fromarray(level).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for level in levels]
    images = torch.from_numpy(np.stack([np.asarray(image) for image in gray]))
    paths = [f"digits/{i:05d}" for i in range(len(digits.images))[part]]
    return ImageDataset(
        "digits",
        images[:, None].repeat(1, 3, 1, 1),
        torch.from_numpy(digits.target[part]),
        [str(digit) for digit in range(10)],
        paths,
    )
