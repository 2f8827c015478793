"""The standard training view: random resized crop and flip."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data.augment import geometry, options
from data.augment.strategy import Params, Strategy, uniform


class Standard(Strategy):
    """Random resized crop (bilinear), flip one half, normalise."""

    def __init__(self, random_resized_crop: Mapping[str, Any], normalize: Mapping[str, Any]):
        values = options.section("random_resized_crop", random_resized_crop, ["size", "scale"], ["ratio"])
        super().__init__(values["size"], normalize)
        self.scale = options.span("random_resized_crop.scale", values["scale"], 0, 1)
        self.ratio = options.span("random_resized_crop.ratio", values.get("ratio", (3 / 4, 4 / 3)), 0, 100)

    def draw(self, num_images: int, generator: torch.Generator | None = None) -> Params:
        """Area (share of the image) and aspect of every try, the place, the flip."""
        area, aspect = torch.rand(2, num_images, geometry.NUM_TRIES, generator=generator)
        low, high = (math.log(r) for r in self.ratio)
        return {
            "area": uniform(area, *self.scale),
            "aspect": uniform(aspect, low, high).exp(),
            "position": torch.rand(num_images, 2, generator=generator),
            "flip": torch.rand(num_images, generator=generator) < 0.5,
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
        """Flip, recolor, normalise."""
        return self.normalize(self.recolor(geometry.flip(cropped, params["flip"]), params))

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """`finish` of `crop`, with the flip inside the crop's matrices, where it costs nothing."""
        box = self.box(params, *images.shape[-2:])
        flipped = geometry.crop_resize(images, box, self.size, mirrored=params["flip"])
        return self.normalize(self.recolor(flipped, params))

    def recolor(self, images: Tensor, params: Params) -> Tensor:
        """Nothing; may change images in place where it does something."""
        return images
