"""The view of small photos in supervised training: a crop of the padded image, and a flip."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from data.augment import geometry
from data.augment.strategy import Normalize, Params, Strategy
from system.sections import Fraction, Side


class PaddedCrop(Strategy):
    """The central square, padded with black and cut at a random place to its own size; flip, normalize.

    Args:
        crop_size: side of the views, in pixels.
        padding: pixels of black on every side.
        flip: probability.
    """

    def __init__(
        self,
        crop_size: Side,
        normalize: Normalize,
        padding: Annotated[int, Field(ge=0, le=1024)] = 4,
        flip: Fraction = 0.5,
    ):
        super().__init__(crop_size, normalize)
        self.padding, self.flip = padding, flip

    def draw(self, num_images: int, generator: torch.Generator | None = None) -> Params:
        """The place of the crop in the padded image, and the flip."""
        return {
            "position": torch.rand(num_images, 2, generator=generator),
            "flip": torch.rand(num_images, generator=generator) < self.flip,
        }

    def box(self, params: Params, height: int, width: int) -> Tensor:
        """The central square of every image."""
        return super().box(params, height, width).expand(len(params["flip"]), 4)

    def finish(self, cropped: Tensor, params: Params) -> Tensor:
        """Pad, cut, flip, normalize."""
        side = self.size + 2 * self.padding
        padded = torch.nn.functional.pad(cropped, [self.padding] * 4)
        box = geometry.random_square_box(params["position"], side, side, self.size)
        return self.normalize(geometry.flip(geometry.cut(padded, box, self.size), params["flip"]))
