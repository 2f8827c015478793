"""SCAN's strong view."""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from data.augment import color, geometry
from data.augment.operations import OPERATIONS, apply_operations
from data.augment.strategy import CHUNK_PIXELS, Normalize, Params, Strategy
from system.sections import Fraction, Section, Side


class Cutout(Section):
    """Squares set to the mean color."""

    n_holes: Annotated[int, Field(ge=0, le=100)]
    """How many."""
    length: Side
    """Largest side, in pixels; an image draws one from 1 on for all its squares."""
    random: bool = True
    """Accepted, as published configs have it; without effect."""


class Strong(Strategy):
    """SCAN's own strategy: flip one half, random crop, strong operations, normalize, cutout.

    Args:
        crop_size: side of the views, in pixels; nothing is padded or resized.
        num_strong_augs: operations drawn for each image, with replacement, out of 14.
        flip: probability.
    """

    host_params = ("operation",)
    chunk_pixels = 4 * CHUNK_PIXELS  # an operation's group is a fourteenth of the chunk

    def __init__(
        self,
        crop_size: Side,
        normalize: Normalize,
        num_strong_augs: Annotated[int, Field(ge=0, le=100)],
        cutout_kwargs: Cutout,
        flip: Fraction = 0.5,
    ):
        super().__init__(crop_size, normalize)
        self.flip = flip
        self.num_operations = num_strong_augs
        self.num_holes, self.length = cutout_kwargs.n_holes, cutout_kwargs.length

    def draw(self, num_images: int, generator: torch.Generator | None = None) -> Params:
        """The place of the crop, the flip, the operations and their magnitudes, cutout's length and centers."""
        rounds = (num_images, self.num_operations)
        holes = (num_images, self.num_holes, 2)
        return {
            "position": torch.rand(num_images, 2, generator=generator),
            "flip": torch.rand(num_images, generator=generator) < self.flip,
            "operation": torch.randint(len(OPERATIONS), rounds, generator=generator),
            "magnitude": torch.rand(rounds, generator=generator),
            "length": torch.randint(1, self.length + 1, (num_images,), generator=generator),
            "centers": torch.randint(self.size, holes, generator=generator),
        }

    def box(self, params: Params, height: int, width: int) -> Tensor:
        """A square of crop_size at the drawn place."""
        return geometry.random_square_box(params["position"], height, width, self.size)

    def crop(self, images: Tensor, params: Params) -> Tensor:
        """The drawn square as it is."""
        return geometry.cut(images, self.box(params, *images.shape[-2:]), self.size).float()

    def finish(self, cropped: Tensor, params: Params) -> Tensor:
        """Flip, the strong operations, normalize, cutout."""
        images = color.apply_where(params["flip"], geometry.mirror, cropped.to(torch.uint8))
        images = apply_operations(images, params["operation"], params["magnitude"])
        holes = geometry.hole_mask(params["length"], params["centers"], self.size)
        return self.normalize(images.float()).masked_fill_(holes, 0)

    def compile(self, num_images: int, compiler: Callable[..., Any] | None = None) -> None:
        """Nothing: the groups change size with every batch, and a graph would be compiled again each time."""
