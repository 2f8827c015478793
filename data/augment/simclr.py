"""SimCLR's view: the standard one, recolored."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from data.augment import color
from data.augment.standard import RandomResizedCrop, Standard
from data.augment.strategy import Normalize, Params, uniform
from system.sections import Fraction, Section

Spread = Annotated[float, Field(ge=0, le=100)]


class Sometimes(Section):
    """What is done to some images only."""

    p: Fraction
    """Its probability."""


class ColorJitter(Section):
    """How far colors may change, uniformly drawn, the four changes in random order."""

    brightness: Spread = 0.0
    """Factor from 1 - brightness to 1 + brightness."""
    contrast: Spread = 0.0
    """The same of the distance to the image's mean gray."""
    saturation: Spread = 0.0
    """The same of the distance to the pixel's gray."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of the color circle, in both directions."""


class SimCLR(Standard):
    """The standard strategy with color jitter at a probability and gray at a probability.

    Args:
        flip: probability.
    """

    def __init__(
        self,
        random_resized_crop: RandomResizedCrop,
        color_jitter_random_apply: Sometimes,
        color_jitter: ColorJitter,
        random_grayscale: Sometimes,
        normalize: Normalize,
        flip: Fraction = 0.5,
    ):
        super().__init__(random_resized_crop, normalize, flip)
        self.jitter_probability, self.gray_probability = color_jitter_random_apply.p, random_grayscale.p
        self.hue = color_jitter.hue
        spreads = color_jitter.brightness, color_jitter.contrast, color_jitter.saturation
        self.factor_low = torch.tensor([max(0.0, 1 - s) for s in spreads])
        self.factor_high = torch.tensor([1 + s for s in spreads])

    def draw(self, num_images: int, generator: torch.Generator | None = None) -> Params:
        """The standard draws, the blends of the jitter, where and how far the hue turns, and what becomes gray."""
        params = super().draw(num_images, generator)
        order = torch.rand(num_images, 4, generator=generator).argsort(1)
        factors = torch.rand(num_images, 3, generator=generator)
        jittered = torch.rand(num_images, generator=generator) < self.jitter_probability
        hue = uniform(torch.rand(num_images, generator=generator), -self.hue, self.hue)
        gray = torch.rand(num_images, generator=generator) < self.gray_probability
        factors = uniform(factors, self.factor_low, self.factor_high)
        blends = color.jitter_blends(order, factors, jittered)
        turned = jittered & (self.hue > 0)
        return {**params, "blends": blends, "turned": turned, "hue": hue, "gray": gray}

    def recolor(self, images: Tensor, params: Params) -> Tensor:
        """Jitter, then gray."""
        channels = color.jitter(images.unbind(1), params["blends"], params["hue"], params["turned"])
        return torch.stack(color.recolor_where(params["gray"], color.grayscale, channels), 1)
