"""SimCLR's view: the standard one, recolored."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data.augment import color, options
from data.augment.standard import Standard
from data.augment.strategy import Params, uniform


class SimCLR(Standard):
    """The standard strategy with color jitter at a probability and gray at a probability."""

    def __init__(
        self,
        random_resized_crop: Mapping[str, Any],
        color_jitter_random_apply: Mapping[str, Any],
        color_jitter: Mapping[str, Any],
        random_grayscale: Mapping[str, Any],
        normalize: Mapping[str, Any],
    ):
        super().__init__(random_resized_crop, normalize)
        self.jitter_probability = probability("color_jitter_random_apply", color_jitter_random_apply)
        self.gray_probability = probability("random_grayscale", random_grayscale)
        names = ["brightness", "contrast", "saturation", "hue"]
        values = options.section("color_jitter", color_jitter, [], names)
        *spreads, self.hue = (
            options.number(f"color_jitter.{name}", values.get(name, 0.0), 0, 0.5 if name == "hue" else 100)
            for name in names
        )
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


def probability(name: str, values: Mapping[str, Any]) -> float:
    """The p of a section that has nothing else."""
    return options.number(f"{name}.p", options.section(name, values, ["p"])["p"], 0, 1)
