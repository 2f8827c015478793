"""SCAN's strong view."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from data.augment import color, geometry, options
from data.augment.operations import OPERATIONS, apply_operations
from data.augment.strategy import CHUNK_PIXELS, Params, Strategy


class Strong(Strategy):
    """SCAN's own strategy: flip one half, random crop, strong operations, normalise, cutout."""

    host_params = ("operation",)
    chunk_pixels = 4 * CHUNK_PIXELS  # an operation's group is a fourteenth of the chunk

    def __init__(
        self,
        crop_size: int,
        normalize: Mapping[str, Any],
        num_strong_augs: int,
        cutout_kwargs: Mapping[str, Any],
    ):
        super().__init__(crop_size, normalize)
        self.num_operations = options.whole("num_strong_augs", num_strong_augs, 0)
        values = options.section("cutout_kwargs", cutout_kwargs, ["n_holes", "length"], ["random"])
        self.num_holes = options.whole("cutout_kwargs.n_holes", values["n_holes"], 0)
        self.length = options.whole("cutout_kwargs.length", values["length"], 1)

    def draw(self, num_images: int, generator: torch.Generator | None = None) -> Params:
        """The place of the crop, the flip, the operations and their magnitudes, cutout's length and centers."""
        rounds = (num_images, self.num_operations)
        holes = (num_images, self.num_holes, 2)
        return {
            "position": torch.rand(num_images, 2, generator=generator),
            "flip": torch.rand(num_images, generator=generator) < 0.5,
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
        """Flip, the strong operations, normalise, cutout."""
        images = color.apply_where(params["flip"], geometry.mirror, cropped.to(torch.uint8))
        images = apply_operations(images, params["operation"], params["magnitude"])
        holes = geometry.hole_mask(params["length"], params["centers"], self.size)
        return self.normalize(images.float()).masked_fill_(holes, 0)

    def compile(self, compiler: Callable[..., Any] | None = None) -> None:
        """Nothing: the groups change size with every batch, and a graph would be compiled anew each time."""
