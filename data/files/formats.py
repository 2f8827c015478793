"""Which files are images: the endings that count, the decoders that may see them, and what the others are.

A file is opened here, with nothing decoded, and refused when decoding it would take too much memory.
"""

import os
import sys
import warnings
from typing import Any

from PIL import Image, ImageFile, PngImagePlugin, features

AVIF = bool(features.check("avif"))
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
    | ({".avif"} if AVIF else set())
)
# Only these decoders ever see a file, whatever it calls itself: PIL's others (EPS!) start foreign programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP") + (("AVIF",) if AVIF else ())
MAX_PIXELS = 2**27  # 134 megapixels, 400 MB once decoded: above any camera, below any bomb
MAX_BYTES = 700e6  # that decoding a file may take at once; with what the interpreter rounds up, it stays below 1 GB
SLOW_SAMPLES = 2**22  # that PIL decodes in Python, one at a time
MOST_SCANNED = 2**32  # pixels times scans of a progressive JPEG

# Decoders that hold the whole picture more often than once, in bytes a pixel besides the picture itself.
EXTRA_BYTES = {"WEBP": 12, "AVIF": 6, "GIF": 4}
ORIENTATION = 0x0112  # tags of EXIF and TIFF
COMPRESSION, TILE_WIDTH, TILE_LENGTH, ROWS, BITS, SAMPLES = 259, 322, 323, 278, 258, 277
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
ROW_BYTES = 16  # of PIL's own tables, for every row of a picture

# Images above MAX_PIXELS are refused here; PIL's own, lower warning would only repeat it in other words.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of broken tags, which no one can act on


class BadImageError(Exception):
    """A file cannot be read as an image; the message is the reason, without the file's name."""


class _PngStream(PngImagePlugin.PngStream):
    """Leaves out texts and color profiles that PIL refuses for their size, and with them the whole picture."""

    def call(self, cid: bytes, pos: int, length: int) -> bytes:
        try:
            return super().call(cid, pos, length)
        except ValueError:
            if cid not in TEXT_CHUNKS or self.fp is None:
                raise
            self.fp.seek(pos)
            return ImageFile._safe_read(self.fp, length)


PngImagePlugin.PngStream = _PngStream  # type: ignore[misc]  # where PIL's reader of PNG files looks it up


def open_image(file: Any) -> Image.Image:
    """Open an image from a file open for reading, without decoding it. Raises BadImageError, or whatever PIL does."""
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        file.seek(0)
        raise BadImageError(_what_it_is(file.read(256))) from error
    except Image.DecompressionBombError as error:
        raise BadImageError(f"more than {MAX_PIXELS:,} pixels") from error
    if image.width * image.height > MAX_PIXELS:
        raise BadImageError(f"more than {MAX_PIXELS:,} pixels")
    return image


def check_bytes(size: tuple[int, int], num_bytes: float) -> None:
    """Raise BadImageError when decoding an image of some width and height takes too many bytes, all in all."""
    if num_bytes > MAX_BYTES:
        pixels = f"{size[0]} x {size[1]} pixels"
        raise BadImageError(f"{pixels} in this form take {num_bytes / 1e9:.1f} GB to decode; make it smaller")


def bytes_per_pixel(mode: str) -> int:
    """Bytes that PIL holds for a pixel."""
    return 1 if mode in ("1", "L", "P") else 2 if mode.startswith("I;16") else 4


def check_cost(image: Image.Image, whole: tuple[int, int], times: int = 1) -> None:
    """Raise BadImageError when decoding an opened image, whose file says it has the size `whole`, costs too much.

    `times` is how often it is decoded and held.
    """
    pixels = image.width * image.height
    num_bytes: float = pixels * (bytes_per_pixel(image.mode) + EXTRA_BYTES.get(image.format or "", 0))
    num_bytes += image.height * ROW_BYTES
    if image.format == "TIFF":
        num_bytes += _bytes_of_strip(image)
        if image.getexif().get(ORIENTATION, 1) != 1:
            num_bytes += pixels * bytes_per_pixel(image.mode)  # PIL turns these itself, into another picture
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        num_bytes += _bytes_of_coefficients(image, *whole)
        if _num_scans(image) * whole[0] * whole[1] > MOST_SCANNED:
            raise BadImageError("a JPEG with too many scans; save it again")
    tile = getattr(image, "tile", None)
    if image.format == "PPM" and tile and tile[0][0] != "raw" and pixels * len(image.getbands()) > SLOW_SAMPLES:
        raise BadImageError(f"more than {SLOW_SAMPLES:,} values in a slow form of PNM; save it as PNG")
    check_bytes(whole, num_bytes * times)


def low_tiles(image: Image.Image) -> list[Any]:
    """What makes PIL decode the low bytes of an opened color image of 16 bits, of which it takes the high ones.

    Empty for any other image.
    """
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    found = []
    for tile in getattr(image, "tile", None) or []:
        first, *rest = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        mode, _, order = str(first).partition(";16")
        if mode not in ("RGB", "RGBA") or image.mode != mode or order not in other:
            return []
        raw = f"{mode};16{other[order]}"
        found.append(tile._replace(args=(raw, *rest) if rest else raw))
    return found


def _num_scans(image: Any) -> int:
    position = image.fp.tell()
    image.fp.seek(0)
    number = sum(part.count(b"\xff\xda") for part in iter(lambda: image.fp.read(2**22), b""))
    image.fp.seek(position)
    return number


def _bytes_of_strip(image: Any) -> int:
    """Of the largest piece of a TIFF that is decompressed at once."""
    tags = image.tag_v2
    if tags.get(COMPRESSION, 1) == 1:
        return 0
    width, height = int(tags.get(TILE_WIDTH, image.width)), int(tags.get(TILE_LENGTH, tags.get(ROWS, image.height)))
    bits = max(8, *map(int, tags.get(BITS, (8,))))
    return width * min(height, image.height) * int(tags.get(SAMPLES, 1)) * bits // 8


def _bytes_of_coefficients(image: Any, width: int, height: int) -> float:
    """Of a progressive JPEG, whose coefficients are all held before a pixel is made."""
    most = max(h for _, h, _, _ in image.layer) * max(v for _, _, v, _ in image.layer)
    return sum(2 * width * height * h * v / most for _, h, v, _ in image.layer)


def _what_it_is(head: bytes) -> str:
    """What the first bytes say of a file that is not read as an image."""
    name = ""
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in (b"avif", b"avis"):
            name = "AVIF"
        elif brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
            name = "AVIF" if b"avif" in head[8:64] else "HEIC"
        elif brand in (b"crx ",):
            name = "a camera's raw file"
        else:
            return "a video, not an image"
    for start, kind in (
        (b"\xff\x0a", "JPEG XL"),
        (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
        (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"8BPS", "a Photoshop file"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"II*\x00\x10\x00\x00\x00CR", "a camera's raw file"),
        (b"%PDF", "a PDF"),
        (b"II\xbc", "JPEG XR"),
        (b"\x89HDF", "HDF5"),
    ):
        if head.startswith(start):
            name = kind
    if head[128:132] == b"DICM":
        name = "DICOM"
    if name == "AVIF" and AVIF:
        return "a damaged AVIF file"
    if name:
        return f"{name}, which is not read here; convert it"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not an image; fetch the file itself with git lfs pull"
    return "not an image"


def ending(name: str) -> str:
    """The ending of a file's name, as a word for people: "heic", or what else there is to say."""
    if name.startswith("."):
        return "hidden"
    suffix = os.path.splitext(name)[1][1:].lower()  # noqa: PTH122  # Path's own answer differs for names like "a."
    if not suffix:
        return "without ending"
    return suffix if suffix.isalnum() and suffix.isascii() and len(suffix) <= 8 else "other"
