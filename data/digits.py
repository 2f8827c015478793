"""scikit-learn's handwritten digits: 1,797 images that come with the library."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.dataset import ImageDataset

NUM_TRAIN = 1437
SIDE = 16
SPLITS = {"train": slice(None, NUM_TRAIN), "val": slice(NUM_TRAIN, None)}


def build(directory: Path, split: str, size: int, /) -> ImageDataset:
    """Build digits: 8x8 gray levels 0..16, bicubic to 16x16, three equal channels.

    The first 1,437 images are the training split, the last 360 the validation split. Nothing is read from
    disk, and the images have one size, so that directory and size do not matter.
    """
    from sklearn.datasets import load_digits  # takes a second that other data sets need not wait

    digits = load_digits()
    part = SPLITS[split]
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
