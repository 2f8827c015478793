"""What a folder's images are like, found without a label: how many, how large, gray or colored."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.files.decode import read_image
from data.files.formats import BadImageError
from data.files.listing import ImageFiles
from data.files.reading import NOTHING, Found, look, words
from data.files.values import BY_IMAGE, Values
from data.folder import find_images
from recipes.orientation import has_sides
from system.console import say, warn
from system.errors import ConfigError, UserError
from system.text import shown

NUM_LOOKED_AT = 256
SIDE = 32  # to which an image is brought to be looked at
GRAY_SPREAD = 10  # largest mean difference between colors, of 255, that still counts as gray
GRAY_SHARE = 0.95
UNEQUAL = 4  # ratio of the largest and smallest short side that deserves a warning
FEW_PER_CLUSTER = 10


@dataclass(frozen=True)
class Look:
    """A folder as a recipe sees it.

    `files` are all its image files, `values` and `found` how they are read; `num_images` is how many can be read,
    counted in a small folder, estimated in a large one; `short_side` is the median in pixels; `mean` and `std` are of
    colors in 0..1; `has_sides` is whether mirror images are another sort of image.
    """

    files: ImageFiles
    num_images: int
    short_side: int
    gray: bool
    mean: list[float]
    std: list[float]
    values: Values = BY_IMAGE
    found: Found = NOTHING
    has_sides: bool = False

    @property
    def words(self) -> str:
        """The look in words."""
        num_bad = len(self.files) - self.num_images
        bad = f"; about {num_bad:,} more cannot be read, and are left out" if num_bad else ""
        kind = "gray" if self.gray else "color"
        return f"{self.num_images:,} {kind} images, short side about {self.short_side}{bad}"

    def may_flip(self, flip: bool, no_flip: bool) -> bool:
        """Whether views may be mirrored: as asked, else where nothing speaks against it."""
        return flip or not (no_flip or self.has_sides)


def check_number(num_clusters: int, num_images: int) -> None:
    """Raise ConfigError or UserError unless so many images can be grouped into so many clusters."""
    if num_clusters < 2:
        raise ConfigError(f"--num_clusters is {num_clusters}, but grouping needs at least 2 clusters")
    if num_images == 1:
        raise UserError("the folder holds one image that can be read; give a folder of more")
    if num_images < num_clusters:
        raise UserError(
            f"the folder holds {num_images:,} images that can be read, which cannot fill {num_clusters:,} clusters; "
            "give a smaller --num_clusters or more images"
        )


def look_at(folder: Path, num_clusters: int) -> Look:
    """Look at a folder and at up to 256 of its images, evenly spaced.

    Raises UserError when it is missing or empty, when its images cannot be read or are all the same, or when there are
    too few of them; ConfigError for fewer than 2 clusters.
    """
    if num_clusters < 2:
        check_number(num_clusters, 0)
    files = find_images(folder, "images", None)
    check_number(num_clusters, len(files))
    values, found = look(files)
    say(f"images: read as {words(values, found)}")
    pictures, sides, num_looked_at = _sample(files, values)
    if not pictures:
        raise UserError(
            f"none of the images looked at in {shown(folder)} can be read as an image; "
            "open one in a viewer: they may be damaged or of another format"
        )
    num_readable = len(files) * len(pictures) // num_looked_at
    check_number(num_clusters, num_readable)
    if num_readable < FEW_PER_CLUSTER * num_clusters:
        warn(
            f"{num_readable:,} images are few for {num_clusters:,} clusters; with {FEW_PER_CLUSTER} or more a cluster "
            "the result is worth more"
        )
    if len({hashlib.sha256(picture.tobytes()).digest() for picture in pictures}) == 1:
        raise UserError(
            f"all {len(pictures)} images looked at in {shown(folder)} are identical, so there is nothing to group; "
            "give another folder"
        )
    if max(sides) > UNEQUAL * min(sides):
        warn(
            f"image sizes differ widely (short sides of {min(sides)} to {max(sides)} pixels); each is scaled to one "
            "size and its center square is used"
        )
    pixels = np.stack(pictures).astype(np.float32)
    spread = (pixels.max(3) - pixels.min(3)).mean((1, 2))
    mean, std = pixels.mean((0, 1, 2)) / 255, pixels.std((0, 1, 2)) / 255
    return Look(
        files,
        num_readable,
        int(np.median(sides)),
        bool((spread <= GRAY_SPREAD).mean() >= GRAY_SHARE),
        [round(float(value), 3) for value in mean],
        [round(max(float(value), 0.05), 3) for value in std],
        values,
        found,
        has_sides(pixels.mean(3)),
    )


def _sample(files: ImageFiles, values: Values) -> tuple[list[np.ndarray], list[int], int]:
    """Small RGB squares uint8 [SIDE, SIDE, 3] of readable images, their files' short sides, how many were tried."""
    paths = files.full_paths()
    pictures, sides = [], []
    chosen = np.unique(np.linspace(0, len(paths) - 1, NUM_LOOKED_AT).round().astype(int))
    for index in chosen:
        try:
            image, size = read_image(paths[index], SIDE, values)
        except BadImageError:
            continue  # counted and left out when all are read
        pictures.append(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)))
        sides.append(min(size))
    return pictures, sides, len(chosen)
