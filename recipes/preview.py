"""A picture of what the network will see, before it is trained: wrong values, crops and turns show here."""

from pathlib import Path

import numpy as np
import torch
from easydict import EasyDict

import data.folder
from data.files.reading import Reading
from data.files.unseen import open_block, split_blocks
from data.files.values import BY_IMAGE
from data.loaders import InferenceLoader
from report.plots import image_sheet
from system.runtime import Runtime
from utils.common_config import get_val_transformations
from utils.readings import known_values

COLUMNS, NUM_IMAGES = 5, 25


def draw_images(path: Path, p: EasyDict, root: Path) -> None:
    """Write a PNG of 25 images of a folder, evenly spaced, as a stage's evaluation transform gives them to its network.

    Raises UserError when it cannot be written.
    """
    files = data.folder.find_images(root, "images", None, quiet=True)
    strategy, kwargs = get_val_transformations(p), p.train_db_kwargs
    options = kwargs.get("resize"), kwargs.get("stream", "auto")
    side, streamed = data.folder.reading(len(files), strategy.size, *options)
    reading = Reading(side, streamed and not kwargs.get("cache_dir"), known_values(p) or BY_IMAGE)
    positions = np.unique(np.linspace(0, len(files) - 1, NUM_IMAGES).round().astype(int))
    names = [files.full_path(position) for position in positions]
    mean, std = (torch.tensor(values)[:, None, None] for values in (strategy.mean, strategy.std))
    seen = [torch.zeros(0, 3, strategy.size, strategy.size)]
    for block in split_blocks(names, reading):
        dataset, _, _ = open_block(block, reading)
        if dataset is not None:
            seen += InferenceLoader(dataset, strategy, NUM_IMAGES, Runtime.start("cpu", "fp32"))
    levels = (255 * (torch.cat(seen) * std + mean)).round().clamp(0, 255).to(torch.uint8)
    rows = max(1, -(-len(levels) // COLUMNS))
    sheet = torch.full((rows * COLUMNS, *levels.shape[1:]), 255, dtype=torch.uint8)
    sheet[: len(levels)] = levels
    image_sheet(path, sheet.unflatten(0, (rows, COLUMNS)), [""] * COLUMNS)
