"""Images that are the same picture, found among those whose features are nearly equal."""

import hashlib
from collections.abc import Callable, Iterable

import numpy as np

from report.thumbnails import Picture, to_picture
from system.errors import UserError

CLOSE = 0.99  # cosine of features; equal pixels give equal features, but for the rounding of low precision


def exact_duplicates(
    nearest: np.ndarray, picture: Callable[[int], Picture], whole: Callable[[int], Picture]
) -> list[list[int]]:
    """Groups of images with the same pixels, each group rising, by its first image.

    Args:
        nearest: the cosine of each image's features with those of its nearest neighbor, [N].
        picture: gives an image, reduced or cropped, or raises UserError where it cannot be read any more.
        whole: gives an image at its full size; only asked of those whose pictures are equal.
    """
    alike = _equal(np.flatnonzero(nearest >= CLOSE).tolist(), picture)
    return sorted(group for candidates in alike for group in _equal(candidates, whole))


def _equal(images: Iterable[int], picture: Callable[[int], Picture]) -> list[list[int]]:
    """Groups of images whose pictures have the same pixels, without those that cannot be read."""
    groups: dict[bytes, list[int]] = {}
    for image in images:
        try:
            pixels = np.asarray(to_picture(picture(image)))
        except UserError:
            continue
        key = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()
        groups.setdefault(key, []).append(image)
    return [group for group in groups.values() if len(group) > 1]
