"""Images that are the same picture, found among those whose features are nearly equal."""

import hashlib
from collections.abc import Callable

import numpy as np

from report.thumbnails import Picture, to_picture
from system.errors import UserError

CLOSE = 0.99  # cosine of features; equal pixels give equal features, but for the rounding of low precision


def exact_duplicates(nearest: np.ndarray, picture: Callable[[int], Picture]) -> list[list[int]]:
    """Groups of images with the same pixels, each group rising, by its first image.

    Args:
        nearest: the cosine of each image's features with those of its nearest neighbor, [N].
        picture: gives an image, or raises UserError where it cannot be read any more.
    """
    groups: dict[bytes, list[int]] = {}
    for image in np.flatnonzero(nearest >= CLOSE).tolist():
        try:
            pixels = np.asarray(to_picture(picture(image)))
        except UserError:
            continue
        key = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()
        groups.setdefault(key, []).append(image)
    return [group for group in groups.values() if len(group) > 1]
