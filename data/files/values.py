"""Gray wider than 8 bits: which of its values become black and white.

Whole numbers from 0 to 65535 are shown by the bit depth that their largest value needs, floats within 0..1 by 0..1.
Where the values fill less than a quarter of that, and for all others, it is the lowest and the highest value there is.
Values that are not measurements do not take part: NaN, infinities, what is beyond 1e30, what a TIFF names as missing,
-9999 and -32768 where they are the lowest, and, among floats and numbers beyond 16 bits, a lowest or highest value that
is farther from the next than the others are from each other.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

LARGEST = 1e30
MISSING = (-9999.0, -32768.0)
FILLED = 0.25  # share of a bit depth that values must fill to be shown by it
MOST_DROPPED = 4  # outlying values, one after the other
FEWEST = 3  # different values that must be left for one to be outlying
GDAL_NODATA = 42113
LOOKED_THROUGH = 2**25  # pixels; of a larger picture one of sixteen is looked at
BOX_PIXELS = 2**22  # worked on at a time
Range = tuple[float, float]


@dataclass(frozen=True)
class Values:
    """Of a folder's images wider than 8 bits: what is black and what white.

    None where the folder has no such gray images: one that comes later is then shown by its own values.
    """

    whole: Range | None = None
    """Of whole numbers."""
    floats: Range | None = None
    colors: Range | None = None
    """Of 16 bits a color, where these do not need them all; None shows them by 0..65535, and so other images."""
    old: bool = False
    """As the first version did it: whole numbers by 0..65535 where that holds them, whatever part of it they use."""


BY_IMAGE = Values()
"""Every image by its own values."""
AS_BEFORE = Values(old=True)
"""As runs read images that did not record how."""


def is_wide(mode: str) -> bool:
    """Whether images of a PIL mode hold gray of more than 8 bits."""
    return mode == "F" or mode.startswith("I")


def boxes(width: int, height: int, step: int = 1, num_pixels: int = BOX_PIXELS) -> Iterator[tuple[int, int, int, int]]:
    """Left, upper, right, lower of boxes of at most `num_pixels` that cover a picture, multiples of `step` apart."""
    across = min(width, max(num_pixels // step, step) // step * step)
    down = max(num_pixels // across // step, 1) * step
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield left, top, min(left + across, width), min(top + down, height)


def missing_value(image: Any) -> float | None:
    """The value that a TIFF names as missing."""
    with contextlib.suppress(Exception):  # hostile bytes
        return float(str(image.tag_v2[GDAL_NODATA]).strip("\0 "))
    return None


def range_of(image: Image.Image, missing: float | None) -> Range | None:
    """The lowest and the highest value of a loaded image that are measurements; None when there is none."""
    found: Range | None = None
    dropped: list[float] = [] if missing is None else [missing]
    for _ in range(MOST_DROPPED + 1):
        ends = _ends(image, dropped)
        if not len(ends):
            break
        low, high = found = float(ends[0]), float(ends[-1])
        outlying = len(ends) > FEWEST and (image.mode == "F" or low < 0 or high > 65535)
        if low in MISSING and low < high:
            dropped.append(low)
        elif outlying and high - ends[-2] > ends[-2] - low:
            dropped.append(high)
        elif outlying and ends[1] - low > high - ends[1]:
            dropped.append(low)
        else:
            break
    return found


def _ends(image: Image.Image, dropped: list[float]) -> np.ndarray[Any, Any]:
    """The few lowest and the few highest different values of a loaded image, sorted."""
    ends = np.empty(0)
    step = 1 if image.width * image.height <= LOOKED_THROUGH else 4
    for box in boxes(*image.size):
        values = np.asarray(image.crop(box))[::step, ::step].ravel()
        if image.mode == "F":
            values = values[np.abs(values) < LARGEST]  # NaN is not below either
        for value in dropped:
            values = values[values != values.dtype.type(value)] if _fits(value, values.dtype) else values
        if len(values) and image.mode.startswith("I;"):
            ends = np.union1d(ends, [values.min(), values.max()])
        elif len(values):
            ends = np.union1d(ends, _outer(values))
        ends = np.concatenate([ends[:FEWEST], ends[-FEWEST:]]) if len(ends) > 2 * FEWEST else ends
    return ends


def _fits(value: float, dtype: Any) -> bool:
    return dtype.kind == "f" or (value.is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)


def _outer(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The few lowest and highest different values."""
    found = []
    for outer, inward in ((np.min, np.greater), (np.max, np.less)):
        rest = values
        for _ in range(FEWEST):
            found.append(outer(rest))
            rest = rest[inward(rest, found[-1])]
            if not len(rest):
                break
    return np.unique(np.asarray(found, dtype=np.float64))


def shown_range(found: Range, floats: bool) -> Range:
    """What is black and what white where values go from the one to the other of `found`."""
    low, high = found
    depth = 1.0 if floats else float(2 ** max(8, int(high).bit_length()) - 1)
    fits = low >= 0 and high <= (1 if floats else 65535)
    return (0.0, depth) if fits and (high - low >= FILLED * depth or high == low) else found


def range_of_all(ranges: Iterable[Range], floats: bool) -> Range | None:
    """What is black and what white in a folder, by the ranges of its images; None when there are none.

    Images of one value say nothing about a range of floats, as long as there are others.
    """
    found = list(ranges)
    found = [own for own in found if own[0] < own[1] or not floats] or found
    return shown_range((min(low for low, _ in found), max(high for _, high in found)), floats) if found else None


def shown_by(image: Image.Image, values: Values, missing: float | None) -> Range:
    """What is black and what white of a loaded image."""
    floats = image.mode == "F"
    stored = values.floats if floats else values.whole
    if stored is not None:
        return stored
    found = range_of(image, missing)
    if found is None:
        return 0.0, 1.0
    if values.old:
        fitting = (0.0, 1.0 if floats else 65535.0)
        return fitting if found[0] >= 0 and found[1] <= fitting[1] else found
    return shown_range(found, floats)


def color_boxes(high: Image.Image, low: Image.Image) -> Iterator[tuple[tuple[int, int], np.ndarray[Any, Any]]]:
    """The 16-bit colors of an image given by its high and its low bytes: left and upper of boxes, float64 [h, w, 3]."""
    for box in boxes(*high.size):
        colors = 256.0 * np.asarray(high.crop(box))[..., :3] + np.asarray(low.crop(box))[..., :3]
        yield box[:2], colors


def range_of_colors(high: Image.Image, low: Image.Image) -> Range:
    """The lowest and the highest value of an image given by its high and its low bytes."""
    ends = [(colors.min(), colors.max()) for _, colors in color_boxes(high, low)]
    return float(min(least for least, _ in ends)), float(max(most for _, most in ends))


def show_colors(high: Image.Image, low: Image.Image, shown: Range) -> None:
    """Make 8-bit colors of an image given by its high and its low bytes, in the place of the high ones."""
    for place, colors in color_boxes(high, low):
        part = Image.fromarray(_levels(colors, shown))
        if high.mode == "RGBA":
            part.putalpha(high.getchannel("A").crop((*place, place[0] + part.width, place[1] + part.height)))
        high.paste(part, place)


def _levels(values: np.ndarray[Any, Any], shown: Range) -> np.ndarray[Any, Any]:
    low, high = shown
    scaled = (values.clip(low, high) - low) * (255 / max(high - low, 1e-12))
    return np.rint(scaled).astype(np.uint8)


def to_gray(image: Image.Image, shown: Range) -> Image.Image:
    """A loaded image of wide gray, or a box of one, as 8-bit gray; NaN is as the lowest value."""
    low, high = shown
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=low, posinf=high, neginf=low)
    return Image.fromarray(_levels(values, shown))
