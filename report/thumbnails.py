"""Thumbnails: small square tiles, packed into a few pictures that the page cuts up again."""

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from system.errors import UserError

SHEET_SIDE = 128
TILE_SIDES = ((6000, 64), (15_000, 48))  # up to how many images a tile has which side; beyond, it is 32
GUTTER = 1  # pixels repeated around a tile, so that a scaled tile does not show its neighbors
NUM_TILES = 256  # small tiles of one picture
# (scale of the side, WebP quality): each step is taken when the one before is too large. None is lossless.
LADDER: tuple[tuple[float, int | None], ...] = (
    (1, None),
    (1, 82),
    (1, 60),
    (0.75, 50),
    (0.5, 40),
    (0.25, 20),
)
TILE_LADDER: tuple[tuple[float, int | None], ...] = (
    (1, None),
    (1, 82),
    (1, 60),
    (1, 40),
    (1, 20),
    (0.75, 15),
    (0.5, 10),
)

Picture = Image.Image | np.ndarray


@dataclass
class Sprite:
    """A picture of equal square tiles, row by row: WebP data, the tiles' images and how to cut them out."""

    images: list[int]
    side: int
    columns: int
    rows: int
    data: bytes

    def facts(self) -> dict[str, object]:
        """What the page needs to cut out a tile."""
        return {"images": self.images, "side": self.side, "columns": self.columns, "rows": self.rows}

    def base64(self) -> str:
        """The picture as text."""
        return base64.b64encode(self.data).decode("ascii")


def to_picture(image: Picture) -> Image.Image:
    """Turn an image (PIL, or uint8 [H, W], [H, W, 3] or [3, H, W]) into an RGB picture."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    pixels = np.asarray(image, dtype=np.uint8)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def fit(picture: Image.Image, side: int) -> Image.Image:
    """Scale a picture so that its longer side is `side`, keeping its aspect."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    if size == picture.size:
        return picture
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


def tile_side(num_images: int) -> int:
    """The side of the small tiles that all images have."""
    return next((side for most, side in TILE_SIDES if num_images <= most), 32)


def read_pictures(
    read: Callable[[int], Picture], indices: Iterable[int], side: int
) -> tuple[dict[int, Image.Image], int]:
    """Read images once and keep them no larger than `side`.

    Returns the pictures, and how many `read` refused with a UserError: a file may have gone since the images were
    clustered, and a report without one thumbnail is better than none.
    """
    pictures, num_failed = {}, 0
    for index in sorted(set(indices)):
        try:
            picture = to_picture(read(index))
        except UserError:
            num_failed += 1
            continue
        pictures[index] = fit(picture, side) if max(picture.size) > side else picture
    return pictures, num_failed


def _pack(tiles: list[Image.Image], images: list[int], side: int, quality: int | None) -> Sprite:
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    cell = side + 2 * GUTTER
    letterboxed = any(tile.width != tile.height for tile in tiles)
    canvas = np.zeros((rows * cell, columns * cell, 4 if letterboxed else 3), dtype=np.uint8)
    for position, tile in enumerate(tiles):
        square = np.zeros((side, side, canvas.shape[2]), dtype=np.uint8)
        small = fit(tile, side)
        top, left = (side - small.height) // 2, (side - small.width) // 2
        inside = square[top : top + small.height, left : left + small.width]
        inside[..., :3] = np.asarray(small)
        if letterboxed:
            inside[..., 3] = 255
        row, column = divmod(position, columns)
        padded = np.pad(square, ((GUTTER, GUTTER), (GUTTER, GUTTER), (0, 0)), mode="edge")
        canvas[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = padded
    file = io.BytesIO()
    options = {"lossless": True} if quality is None else {"quality": quality, "method": 3}
    Image.fromarray(canvas).save(file, "WEBP", **options)
    return Sprite(images, side, columns, rows, file.getvalue())


def make_sprites(
    pictures: dict[int, Image.Image],
    groups: list[list[int]],
    side: int,
    num_bytes: int,
    ladder: Sequence[tuple[float, int | None]] = LADDER,
) -> list[Sprite]:
    """Pack every group of images into one sprite, all of them together within `num_bytes`.

    A tile's side is `side`, or the largest picture's where all are smaller; first quality and then size give
    way to the bound. Images that are not among `pictures` are left out, and so are groups without any.
    """
    groups = [kept for group in groups if (kept := [i for i in group if i in pictures])]
    if not groups:
        return []
    side = min(side, max(max(pictures[i].size) for group in groups for i in group))
    num_tiles = sum(len(group) for group in groups)
    sprites: list[Sprite] = []
    sample = groups[:: math.ceil(len(groups) / 8)]  # tells which steps are far too large
    share = sum(map(len, sample)) / num_tiles
    for scale, quality in ladder:
        scaled = max(4, round(side * scale))
        if quality is None and num_tiles * scaled * scaled > num_bytes:
            continue  # lossless takes about a byte a pixel
        tried = [_pack([pictures[i] for i in group], group, scaled, quality) for group in sample]
        if (scale, quality) != ladder[-1] and sum(len(sprite.data) for sprite in tried) > 1.2 * share * num_bytes:
            continue
        sprites = [_pack([pictures[i] for i in group], group, scaled, quality) for group in groups]
        if sum(len(sprite.data) for sprite in sprites) <= num_bytes:
            break
    return sprites


def split(indices: list[int]) -> list[list[int]]:
    """Cut images into groups of one sprite each."""
    return [indices[start : start + NUM_TILES] for start in range(0, len(indices), NUM_TILES)]
