"""The augmentation strategies: what is drawn for each image of a batch, and what the draws do to it.

A strategy draws, `draw(num_images, generator)`, and does to images what was drawn: `box` says what is cut out, which
workers may do where images are streamed, `crop` cuts it, `finish` does the rest; `apply` is `finish` of `crop`. All are
pure. The draws live on the processor and depend on nothing but the generator, so that a part of every parameter is the
same part of the batch.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from data.augment import geometry
from system.sections import Section, Side, checked
from system.transfer import send_all

Params = dict[str, Tensor]

CHUNK_PIXELS = 128 * 32 * 32  # worked on at a time on the processor, so that a chunk stays in its cache


class Normalize(Section):
    """What becomes of the levels of each channel, as shares of full brightness: (level - mean) / std."""

    mean: Annotated[Sequence[Annotated[float, Field(ge=-1e3, le=1e3)]], Field(min_length=3, max_length=3)]
    """Of red, green and blue."""
    std: Annotated[Sequence[Annotated[float, Field(ge=1e-6, le=1e3)]], Field(min_length=3, max_length=3)]
    """Of red, green and blue."""


class Strategy:
    """What the strategies share; as it stands, the evaluation transform: center crop, normalize.

    The annotated parameters of a strategy's constructor are the options that a config may give it. They are checked
    in every call: raises ConfigError. Plain dicts become sections.
    """

    host_params: tuple[str, ...] = ()  # parameters that steer and stay on the processor
    chunk_pixels = CHUNK_PIXELS
    is_fixed = False  # whether an image looks the same every time

    @checked
    def __init__(self, crop_size: Side, normalize: Normalize):
        self.size = self.cut = crop_size
        self.mean, self.std = tuple(normalize.mean), tuple(normalize.std)
        self._normalization: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._compiled: Callable[[Tensor, Params], Tensor] | None = None
        self._compiled_for = 0

    def __getstate__(self) -> dict[str, Any]:
        """What a worker gets: nothing that lies on a device, and nothing compiled."""
        return {**vars(self), "_normalization": {}, "_compiled": None}

    def __init_subclass__(cls) -> None:
        if "__init__" in vars(cls):
            cls.__init__ = checked(cls.__init__)  # type: ignore[method-assign]

    @classmethod
    def as_evaluated(cls, crop_size: int, normalize: Any) -> dict[str, Any]:
        """The options that say how large the views are and how they are normalized, from the evaluation transform's.

        A config that does not give them to the views takes these.
        """
        return {"crop_size": crop_size, "normalize": normalize}

    def draw(self, num_images: int, generator: torch.Generator | None = None) -> Params:
        """Everything random for num_images images: CPU tensors [num_images, ...]."""
        return {}

    def box(self, params: Params, height: int, width: int) -> Tensor:
        """Int64 [B, 4]: top, left, height, width of what is cut out of each image; here the central square, for all."""
        geometry.require_room(height, width, self.cut)
        top, left = round((height - self.cut) / 2), round((width - self.cut) / 2)
        return torch.tensor([[top, left, self.cut, self.cut]])

    def crop(self, images: Tensor, params: Params) -> Tensor:
        """Uint8 [B, 3, H, W] to whole levels in float32 [B, 3, size, size]."""
        top, left, size, _ = self.box(params, *images.shape[-2:])[0].tolist()
        return images[:, :, top : top + size, left : left + size].float()

    def finish(self, cropped: Tensor, params: Params) -> Tensor:
        """All that follows the crop: float32 [B, 3, size, size] in 0..255 to normalized float32."""
        return self.normalize(cropped)

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Uint8 [B, 3, H, W] and their params, on the same device, to normalized float32 [B, 3, size, size]."""
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
        self._constants(device)  # a compiled graph that made them itself would be compiled again once they are there
        if device.type != "cpu":
            return function(images, params)
        chunk = self._chunk(len(images), device)
        views = torch.empty(len(images), 3, self.size, self.size)
        for i in range(0, len(images), chunk):
            part = {name: value[i : i + chunk] for name, value in params.items()}
            views[i : i + chunk] = function(images[i : i + chunk], part)
        return views

    def _chunk(self, num_images: int, device: torch.device) -> int:
        """How many images of a batch are worked on at a time: the same number, as far as it goes."""
        if device.type != "cpu":
            return num_images
        num_chunks = math.ceil(num_images * self.size**2 / self.chunk_pixels) or 1
        return math.ceil(num_images / num_chunks) or 1

    def compile(self, num_images: int, compiler: Callable[..., Any] | None = None) -> None:
        """Have `run` use torch.compile, or another compiler, for batches of `num_images`; others are not compiled."""
        self._compiled, self._compiled_for = (compiler or torch.compile)(self.apply, dynamic=False), num_images

    def _apply(self, images: Tensor, params: Params) -> Tensor:
        if self._compiled is None or len(images) != self._chunk(self._compiled_for, images.device):
            return self.apply(images, params)
        return self._compiled(images, params)

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
    """Center crop, resized where that is asked for, normalize.

    Args:
        crop_size: side of the crop, in pixels.
        zoom_to: side that the crop is resized to; by default it stays as it is.
    """

    is_fixed = True

    def __init__(self, crop_size: Side, normalize: Normalize, *, zoom_to: Side | None = None):
        super().__init__(zoom_to or crop_size, normalize)
        self.cut = crop_size

    def steps(self) -> list[dict[str, Any]]:
        """What becomes of a square image before it is normalized, one step after the other, for other programs."""
        resized = {"resize": self.size, "interpolation": "bilinear"}
        return [{"center_crop": self.cut}, *([resized] if self.cut != self.size else [])]

    def crop(self, images: Tensor, params: Params) -> Tensor:
        """The central square, resized where it is asked for, in whole levels."""
        if self.cut == self.size:
            return super().crop(images, params)
        box = self.box(params, *images.shape[-2:]).expand(len(images), 4)
        return geometry.crop_resize(images, box.to(images.device), self.size)


def uniform(draws: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Draws in 0..1 spread over low..high."""
    return low + (high - low) * draws
