"""The standard training view: random resized crop and flip."""

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from data.augment import geometry
from data.augment.strategy import Normalize, Params, Strategy, uniform
from system.sections import Fraction, Section, Side, Span


class RandomResizedCrop(Section):
    """A part of the image, resized to a square."""

    size: Side
    """Side of the views, in pixels."""
    scale: Span[Annotated[float, Field(gt=0, le=1)]]
    """Smallest and largest area of the part, as a share of the image's."""
    ratio: Span[Annotated[float, Field(gt=0, le=100)]] = (3 / 4, 4 / 3)
    """Smallest and largest ratio of its width to its height."""


class Standard(Strategy):
    """Random resized crop (bilinear), flip, normalize.

    Args:
        flip: probability.
    """

    def __init__(self, random_resized_crop: RandomResizedCrop, normalize: Normalize, flip: Fraction = 0.5):
        super().__init__(random_resized_crop.size, normalize)
        self.flip = flip
        self.scale = tuple(random_resized_crop.scale)
        low, high = random_resized_crop.ratio
        self.ratio = low, high

    @classmethod
    def as_evaluated(cls, crop_size: int, normalize: Any) -> dict[str, Any]:
        """The side of the crop and the normalization."""
        return {"random_resized_crop": {"size": crop_size}, "normalize": normalize}

    def draw(self, num_images: int, generator: torch.Generator | None = None) -> Params:
        """Area (share of the image) and aspect of every try, the place, the flip."""
        area, aspect = torch.rand(2, num_images, geometry.NUM_TRIES, generator=generator)
        low, high = (math.log(r) for r in self.ratio)
        return {
            "area": uniform(area, *self.scale),
            "aspect": uniform(aspect, low, high).exp(),
            "position": torch.rand(num_images, 2, generator=generator),
            "flip": torch.rand(num_images, generator=generator) < self.flip,
        }

    def box(self, params: Params, height: int, width: int) -> Tensor:
        """The drawn crop of each image."""
        return geometry.random_resized_box(
            params["area"], params["aspect"], params["position"], height, width, self.ratio
        )

    def crop(self, images: Tensor, params: Params) -> Tensor:
        """The drawn crop, resized as PIL does, in whole levels."""
        return geometry.crop_resize(images, self.box(params, *images.shape[-2:]), self.size)

    def finish(self, cropped: Tensor, params: Params) -> Tensor:
        """Flip, recolor, normalize."""
        return self.normalize(self.recolor(geometry.flip(cropped, params["flip"]), params))

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """`finish` of `crop`, with the flip inside the crop's matrices, where it costs nothing."""
        box = self.box(params, *images.shape[-2:])
        flipped = geometry.crop_resize(images, box, self.size, mirrored=params["flip"])
        return self.normalize(self.recolor(flipped, params))

    def recolor(self, images: Tensor, params: Params) -> Tensor:
        """Nothing; may change images in place where it does something."""
        return images
