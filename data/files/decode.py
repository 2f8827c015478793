"""Image files that nobody vouches for: any format, mode, orientation in, upright RGB out, or a BadImageError.

Every image is resampled once, straight from what the decoder gives: a crop box in the frame that the image
would have after resizing its short side is mapped back to the decoded pixels, and PIL resizes from there.
"""

import contextlib
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from system.console import progress
from system.errors import UserError
from system.paths import open_regular

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".gif", ".tif", ".tiff"})
# Only these decoders ever see a file, whatever it calls itself: PIL's others (EPS!) start foreign programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 2**27  # 134 megapixels, 400 MB once decoded: above any camera, below any bomb

TRANSPARENT = {"RGBA", "RGBa", "LA", "La", "PA"}
ORIENTATION = 0x0112  # the EXIF tag, and the turn that undoes each of its values
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Images above MAX_PIXELS are refused here; PIL's own, lower warning would only repeat it in other words.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class BadImageError(Exception):
    """A file cannot be read as an image; the message is the reason, without the file's name."""


def _open(file: Any) -> Image.Image:
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    return image


def _reason(error: Exception, path: str) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    with contextlib.suppress(OSError, ValueError):  # gone meanwhile, or no path at all
        if Path(path).stat().st_size == 0:
            return "empty file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    return " ".join(str(error).split())[:100] or type(error).__name__


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block is no reason to refuse the pixels
        return 1


def _from_wide(image: Image.Image) -> Image.Image:
    """Gray wider than 8 bits: 16-bit values and floats in 0..1 by their full range, others by their own."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = values.min(), values.max()
    if image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0, 1
    elif image.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0, 65535
    scaled = (values - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_wide(image)
    if image.mode in TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def read_image(path: str, short_side: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """Read an image file's first frame as upright RGB; returns it with the file's height and width.

    With `short_side` a JPEG is decoded at a half, a quarter or an eighth where its short side stays at least
    that long, so the returned image may be smaller than the returned size. Raises BadImageError.
    """
    try:
        with open_regular(path) as file:
            image = _open(file)
            whole = image.size
            if short_side is not None:
                image.draft(None, (short_side, short_side))
            drafted = image.size != whole
            image.load()
        orientation = _orientation(image)  # after loading: PIL turns TIFF files itself then
        image = _to_rgb(image)
        if orientation in TURNS:
            image = image.transpose(TURNS[orientation])
        if not drafted:
            whole = image.size
        elif orientation in (5, 6, 7, 8):
            whole = (whole[1], whole[0])
    except Exception as error:  # hostile bytes make PIL raise nearly anything
        raise BadImageError(_reason(error, path)) from error
    return image, (whole[1], whole[0])


def frame_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width after resizing to a short side (the long one rounded down, as torchvision does)."""
    if height < width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def center_box(height: int, width: int, side: int) -> tuple[int, int, int, int]:
    """Top, left, height, width of the centre square (rounded as torchvision's CenterCrop does)."""
    return round((height - side) / 2), round((width - side) / 2), side, side


def cut(
    image: Image.Image, frame: tuple[int, int], boxes: Sequence[Sequence[int]], out_size: int
) -> np.ndarray[Any, Any]:
    """Crop boxes (top, left, height, width in the frame), resized bilinear with antialias, in one step.

    `image` is stretched over the `frame` (height, width) in thought only. Returns uint8 [V, 3, out_size,
    out_size].
    """
    y, x = image.height / frame[0], image.width / frame[1]
    views = np.empty((len(boxes), 3, out_size, out_size), dtype=np.uint8)
    for view, (top, left, height, width) in zip(views, boxes, strict=True):
        right, bottom = min((left + width) * x, image.width), min((top + height) * y, image.height)
        box = (left * x, top * y, right, bottom)
        resized = image.resize((out_size, out_size), Image.Resampling.BILINEAR, box=box)
        view[:] = np.asarray(resized).transpose(2, 0, 1)
    return views


def read_square(path: str, side: int) -> np.ndarray[Any, Any]:
    """Scale the short side, cut the centre square: uint8 [3, side, side]. Raises BadImageError."""
    # Decoded at twice the side at least, so that PIL's antialias filter stays the one that counts.
    image, (height, width) = read_image(path, 2 * side)
    frame = frame_size(height, width, side)
    return cut(image, frame, [center_box(*frame, side)], side)[0]


class _Chunks(Dataset[Any]):
    """Item j: the squares of the j-th few files, and why some (by position in the whole list) are bad."""

    def __init__(self, paths: Sequence[str], side: int) -> None:
        self.paths, self.side = paths, side
        self.length = max(1, min(64, 2**22 // (3 * side * side)))  # at most 4 MB a message

    def __len__(self) -> int:
        return -(-len(self.paths) // self.length)

    def __getitem__(self, chunk: int) -> tuple[np.ndarray[Any, Any], dict[int, str]]:
        first = chunk * self.length
        paths = self.paths[first : first + self.length]
        squares = np.zeros((len(paths), 3, self.side, self.side), dtype=np.uint8)
        bad = {}
        for i, path in enumerate(paths):
            try:
                squares[i] = read_square(path, self.side)
            except BadImageError as error:
                bad[first + i] = str(error)
        return squares, bad


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_squares(
    paths: Sequence[str], side: int, desc: str = "reading images"
) -> Iterator[tuple[np.ndarray[Any, Any], dict[int, str]]]:
    """Read many files in parallel and in order, a few at a time, with a progress bar.

    Yields uint8 [n, 3, side, side], zeros where a file is bad, and a dict from its position in `paths` to the
    reason. Raises UserError when a decoder crashes. Processes, because threads are slower than none on small
    files; forked ones, so that scripts need no `__main__` guard; where a system cannot fork safely, one after
    the other.
    """
    chunks = _Chunks(paths, side)
    fork = sys.platform == "linux" and len(chunks) > 1
    loader = DataLoader(
        chunks,
        batch_size=None,
        collate_fn=_same,  # arrays through a pipe, not tensors through /dev/shm, which is small in containers
        num_workers=min(num_cores(), 16, len(chunks)) if fork else 0,
        multiprocessing_context=multiprocessing.get_context("fork") if fork else None,
        generator=torch.Generator(),  # leaves the global one alone
    )
    try:
        yield from progress(loader, total=len(chunks), desc=desc)
    except RuntimeError as error:
        raise UserError(f"a process that decodes images died: {error}") from error


def _same(item: Any) -> Any:
    return item
