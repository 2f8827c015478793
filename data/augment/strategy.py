"""The augmentation strategies: what is drawn for each image of a batch, and what the draws do to it.

A strategy draws, `draw(num_images, generator)`, and does to images what was drawn: `box` says what is cut out, which
workers may do where images are streamed, `crop` cuts it, `finish` does the rest; `apply` is `finish` of `crop`. All are
pure. The draws live on the processor and hang on nothing but the generator, so that a part of every parameter is the
same part of the batch.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from data.augment import color, geometry, options
from data.augment.operations import OPERATIONS, apply_operations
from system.transfer import send_all

Params = dict[str, Tensor]

CHUNK_PIXELS = 128 * 32 * 32  # worked on at a time on the processor, so that a chunk stays in its cache


class Strategy:
    """What the strategies share; as it stands, the evaluation transform: centre crop, normalise."""

    host_params: tuple[str, ...] = ()  # parameters that steer and stay on the processor
    chunk_pixels = CHUNK_PIXELS
    is_fixed = False  # whether an image looks the same every time

    def __init__(self, size: int, normalize: Mapping[str, Any]):
        self.size = options.whole("the crop size", size, 1)
        values = options.section("normalize", normalize, ["mean", "std"])
        self.mean = options.numbers("normalize.mean", values["mean"], 3, -1e3, 1e3)
        self.std = options.numbers("normalize.std", values["std"], 3, 1e-6, 1e3)
        self._normalization: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._compiled: Callable[[Tensor, Params], Tensor] | None = None
        self._compiled_shape: torch.Size | None = None

    def draw(self, num_images: int, generator: torch.Generator | None = None) -> Params:
        """Everything random for num_images images: CPU tensors [num_images, ...]."""
        return {}

    def box(self, params: Params, height: int, width: int) -> Tensor:
        """Int64 [B, 4]: top, left, height, width of what is cut out of each image; here one row, for all."""
        geometry.require_room(height, width, self.size)
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return torch.tensor([[top, left, self.size, self.size]])

    def crop(self, images: Tensor, params: Params) -> Tensor:
        """Uint8 [B, 3, H, W] to whole levels in float32 [B, 3, size, size]."""
        top, left, size, _ = self.box(params, *images.shape[-2:])[0].tolist()
        return images[:, :, top : top + size, left : left + size].float()

    def finish(self, cropped: Tensor, params: Params) -> Tensor:
        """All that follows the crop: float32 [B, 3, size, size] in 0..255 to normalised float32."""
        return self.normalize(cropped)

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Uint8 [B, 3, H, W] and their params, on the same device, to normalised float32 [B, 3, size, size]."""
        return self.finish(self.crop(images, params), params)

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One uint8 image [3, H, W] or a batch [B, 3, H, W]; without a generator, torch's default one draws."""
        if images.dtype != torch.uint8 or images.ndim not in (3, 4):
            raise TypeError(f"expected uint8 [3, H, W] or [B, 3, H, W], got {images.dtype} {tuple(images.shape)}")
        batch = images[None] if images.ndim == 3 else images
        views = self.run(batch, self.draw(len(batch), generator))
        return views[0] if images.ndim == 3 else views

    def run(self, images: Tensor, params: Params) -> Tensor:
        """`apply` with params taken to the images' device, on the processor chunk by chunk; compiled if asked for."""
        return self._run(self._apply, images, params)

    def run_finish(self, crops: Tensor, params: Params) -> Tensor:
        """`finish` in the same way, of uint8 crops [B, 3, size, size] that were cut elsewhere."""
        return self._run(lambda part, own: self.finish(part.float(), own), crops, params)

    def _run(self, function: Callable[[Tensor, Params], Tensor], images: Tensor, params: Params) -> Tensor:
        device = images.device
        wanted = {name: value for name, value in params.items() if name not in self.host_params}
        params = params | send_all(wanted, device)
        self._constants(device)  # a compiled graph that made them itself would be compiled anew once they are there
        if device.type != "cpu":
            return function(images, params)
        # Chunks of the same size, as far as it goes: a compiled graph holds for one.
        num_chunks = math.ceil(len(images) * self.size**2 / self.chunk_pixels) or 1
        chunk = math.ceil(len(images) / num_chunks) or 1
        views = torch.empty(len(images), 3, self.size, self.size)
        for i in range(0, len(images), chunk):
            part = {name: value[i : i + chunk] for name, value in params.items()}
            views[i : i + chunk] = function(images[i : i + chunk], part)
        return views

    def compile(self, compiler: Callable[..., Any] | None = None) -> None:
        """Have `run` use torch.compile, or another compiler, for the shape it meets first, and `apply` for others."""
        self._compiled = (compiler or torch.compile)(self.apply, dynamic=False)

    def _apply(self, images: Tensor, params: Params) -> Tensor:
        if self._compiled is None:
            return self.apply(images, params)
        self._compiled_shape = self._compiled_shape or images.shape
        function = self._compiled if images.shape == self._compiled_shape else self.apply
        return function(images, params)

    def normalize(self, images: Tensor) -> Tensor:
        """(images / 255 - mean) / std, per channel."""
        offset, scale = self._constants(images.device)
        return torch.addcmul(offset, images, scale)

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._normalization:
            mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (self.mean, self.std))
            self._normalization[device] = (-mean / std, 1 / (255 * std))
        return self._normalization[device]


class Evaluation(Strategy):
    """Centre crop, normalise."""

    is_fixed = True

    def __init__(self, crop_size: int, normalize: Mapping[str, Any]):
        super().__init__(crop_size, normalize)


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


def build_evaluation(crop_size: int, normalize: Mapping[str, Any]) -> Strategy:
    """The evaluation transform: centre crop, normalise."""
    return Evaluation(crop_size, normalize)


def uniform(draws: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Draws in 0..1 spread over low..high."""
    return low + (high - low) * draws


def probability(name: str, values: Mapping[str, Any]) -> float:
    """The p of a section that has nothing else."""
    return options.number(f"{name}.p", options.section(name, values, ["p"])["p"], 0, 1)
