"""Untrusted image files: any format, mode, orientation in, upright RGB out, or a BadImageError.

Every image is resampled once, straight from what the decoder gives: a crop box in the frame that the image
would have after resizing its short side is mapped back to the decoded pixels, and PIL resizes from there.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from data.files.formats import (
    ORIENTATION,
    ROW_BYTES,
    BadImageError,
    bytes_per_pixel,
    check_bytes,
    check_cost,
    low_tiles,
    open_image,
)
from data.files.values import (
    BOX_PIXELS,
    BY_IMAGE,
    Range,
    Values,
    boxes,
    is_wide,
    missing_value,
    range_of,
    range_of_colors,
    show_colors,
    shown_by,
    to_gray,
)
from system.paths import open_regular

REDUCE_ABOVE = 2**25  # pixels; a larger picture that has to be converted is reduced box by box, as a JPEG is
MOST_REDUCED = 8  # times, as a JPEG
TRANSPARENT = {"RGBA", "RGBa", "LA", "La", "PA"}
TURNS = {  # what undoes each value of EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _reason(error: Exception, path: str) -> str:
    if isinstance(error, BadImageError):
        return "empty file" if Path(path).stat().st_size == 0 else str(error)
    if isinstance(error, MemoryError):
        return "too large to be decoded in memory; make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    with contextlib.suppress(OSError, ValueError):  # gone meanwhile, or no path at all
        if Path(path).stat().st_size == 0:
            return "empty file"
    return " ".join(str(error).split())[:100] or type(error).__name__


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block is not a reason to refuse the pixels
        return 1


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in TRANSPARENT or "transparency" in image.info


def _has_alpha(image: Image.Image, box_pixels: int) -> bool:
    """Whether a loaded image's alpha plane shows anything of it; one of zeros was never meant as one."""
    planes = (image.crop(box).convert("RGBA").getchannel("A") for box in boxes(*image.size, num_pixels=box_pixels))
    return any(plane.getextrema() != (0, 0) for plane in planes)


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _without_alpha(image: Image.Image) -> Image.Image:
    return image.convert("RGBA").convert("RGB")


def _converter(image: Image.Image, values: Values, box_pixels: int) -> Callable[[Image.Image], Image.Image] | None:
    """What makes RGB of a loaded image, or of a box of it; None where it is RGB."""
    if is_wide(image.mode):
        shown = shown_by(image, values, missing_value(image))
        return lambda box: to_gray(box, shown).convert("RGB")
    if _is_transparent(image):
        return _on_white if _has_alpha(image, box_pixels) else _without_alpha
    return None if image.mode == "RGB" else lambda box: box.convert("RGB")


def to_rgb(image: Image.Image, values: Values, times: int, box_pixels: int = BOX_PIXELS) -> Image.Image:
    """RGB of a loaded image, box by box, so that what stands between takes little memory; reduced `times`."""
    convert = _converter(image, values, box_pixels)
    if convert is None and times == 1:
        return image
    convert = convert or Image.Image.copy
    if times == 1 and image.width * image.height <= box_pixels:
        return convert(image)
    rgb = Image.new("RGB", (-(-image.width // times), -(-image.height // times)))
    for box in boxes(*image.size, times, box_pixels):
        part = convert(image.crop(box))
        rgb.paste(part.reduce(times) if times > 1 else part, (box[0] // times, box[1] // times))
    return rgb


def _times(image: Image.Image, short_side: int | None, orientation: int) -> int:
    """How many times a large picture is reduced while it is made RGB; raises BadImageError when memory ends before."""
    width, height = image.size
    kept = image.mode == "RGB" and not _is_transparent(image) and orientation == 1
    if kept or width * height <= REDUCE_ABOVE:
        return 1
    times = max(1, min(MOST_REDUCED, min(width, height) // short_side)) if short_side else 1
    loaded = width * height * bytes_per_pixel(image.mode) + height * ROW_BYTES
    made = 4 * width * height / times**2 + height / times * ROW_BYTES
    check_bytes(image.size, loaded + made)
    return times


def read_image(
    path: str, short_side: int | None = None, values: Values = BY_IMAGE
) -> tuple[Image.Image, tuple[int, int]]:
    """Read an image file's first frame as upright RGB; returns it with the file's height and width.

    With `short_side` a JPEG is decoded at a half, a quarter or an eighth where its short side stays at least that long,
    and a very large picture of another form is reduced, so the returned image may be smaller than the returned size.
    `values` are those of gray wider than 8 bits. Raises BadImageError.
    """
    try:
        with open_regular(path) as file:
            image = open_image(file)
            whole = image.size
            if short_side is not None:
                image.draft(None, (short_side, short_side))
            smaller = image.size != whole
            tiles = low_tiles(image) if values.colors else []
            check_cost(image, whole, times=2 if tiles else 1)
            times = _times(image, short_side, _orientation(image))
            image.load()
            if tiles and values.colors:
                show_colors(image, _load_low(file, tiles), values.colors)
        orientation = _orientation(image)  # after loading: PIL turns TIFF files itself then
        if not smaller:
            whole = image.size
        image = to_rgb(image, values, times)
        if orientation in TURNS:
            image = image.transpose(TURNS[orientation])
            if orientation in (5, 6, 7, 8):
                whole = (whole[1], whole[0])
    except Exception as error:  # hostile bytes make PIL raise nearly anything
        raise BadImageError(_reason(error, path)) from error
    return image, (whole[1], whole[0])


def _load_low(file: Any, tiles: list[Any]) -> Image.Image:
    """The low bytes of a color image of 16 bits."""
    file.seek(0)
    image: Any = open_image(file)
    image.tile = tiles
    image.load()
    return image


Kind = Literal["whole", "floats", "colors"]


class Form(NamedTuple):
    """What a file says of its image before it is decoded: what it holds more than 8 bits of, and so on.

    `range` is of the values of a decoded one.
    """

    wide: Kind | None
    several_pages: bool
    transparent: bool
    range: Range | None = None


def look_into(path: str, decode: bool = False) -> Form:
    """Look at an image file's form, and with `decode` at the values of wide gray. Raises BadImageError."""
    try:
        with open(path, "rb") as file:
            image = open_image(file)
            tiles = low_tiles(image)
            wide: Kind | None = "colors" if tiles else None
            if is_wide(image.mode):
                wide = "floats" if image.mode == "F" else "whole"
            form = Form(wide, False, _is_transparent(image))
            if decode and form.wide:
                check_cost(image, image.size, times=2 if tiles else 1)
                image.load()
                if tiles:
                    return form._replace(range=range_of_colors(image, _load_low(file, tiles)))
                return form._replace(range=range_of(image, missing_value(image)))
            return form._replace(several_pages=_has_several_pages(image))
    except Exception as error:
        raise BadImageError(_reason(error, path)) from error


def upright_size(path: str) -> tuple[int, int]:
    """Width and height of an image file's picture as it is shown, without decoding it. Raises BadImageError."""
    try:
        with open_regular(path) as file:
            image = open_image(file)
            width, height = image.size  # of TIFF files PIL gives the upright one
            turned = _orientation(image) in (5, 6, 7, 8) and image.format != "TIFF"
            return (height, width) if turned else (width, height)
    except Exception as error:
        raise BadImageError(_reason(error, path)) from error


def _has_several_pages(image: Image.Image) -> bool:
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1) > 1 if image.format in ("WEBP", "AVIF", "PNG") else False
    with contextlib.suppress(Exception):  # a broken second page is none
        image.seek(1)
        return True
    return False


def frame_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width after resizing to a short side (the long one rounded down, as torchvision does)."""
    if height < width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def center_box(height: int, width: int, side: int) -> tuple[int, int, int, int]:
    """Top, left, height, width of the center square (rounded as torchvision's CenterCrop does)."""
    return round((height - side) / 2), round((width - side) / 2), side, side


def cut(
    image: Image.Image, frame: tuple[int, int], boxes: Sequence[Sequence[int]], out_size: int, within: bool = False
) -> np.ndarray[Any, Any]:
    """Crop boxes (top, left, height, width in the frame), resized bilinear with antialias, in one step.

    `image` is stretched over the `frame` (height, width) in thought only. `within` keeps the filter from looking at
    pixels beyond a box of whole pixels, as resizing a crop does. Returns uint8 [V, 3, out_size, out_size].
    """
    y, x = image.height / frame[0], image.width / frame[1]
    views = np.empty((len(boxes), 3, out_size, out_size), dtype=np.uint8)
    for view, (top, left, height, width) in zip(views, boxes, strict=True):
        right, bottom = min((left + width) * x, image.width), min((top + height) * y, image.height)
        box = (left * x, top * y, right, bottom)
        part = image.crop((left, top, left + width, top + height)) if within else image
        resized = part.resize((out_size, out_size), Image.Resampling.BILINEAR, box=None if within else box)
        view[:] = np.asarray(resized).transpose(2, 0, 1)
    return views


def read_square(path: str, side: int, values: Values = BY_IMAGE) -> np.ndarray[Any, Any]:
    """Scale the short side, cut the center square: uint8 [3, side, side]. Raises BadImageError."""
    # Decoded at twice the side at least, so that PIL's antialias filter stays the one that counts.
    image, (height, width) = read_image(path, 2 * side, values)
    frame = frame_size(height, width, side)
    return cut(image, frame, [center_box(*frame, side)], side)[0]
