"""The evaluation transform that pretrained networks ask for: resize as PIL does, center crop, normalize."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from data.augment.strategy import Normalize, Params, Strategy
from system.sections import Side


class Pretrained(Strategy):
    """Resize images of any size so that a center crop keeps the share `crop` of the short side, crop, normalize.

    `crop_mode: squash` brings both sides to the same length first, so that the crop keeps that share of both. The
    result is that of PIL's resize to `crop_size / crop` (rounded as torchvision and timm do) and torchvision's
    CenterCrop, to one of 256 levels, except where the filter overshoots black or white between its two directions.
    Streamed images are another matter: workers resize what is cut out bilinearly, whatever the `interpolation`.

    Args:
        crop_size: side of the result.
        normalize: what the network asks for.
        interpolation: how pixels are resized.
        crop: share of the short side that is kept.
        crop_mode: squash brings both sides to one length first.
    """

    is_fixed = True

    def __init__(
        self,
        crop_size: Side,
        normalize: Normalize,
        interpolation: Literal["bilinear", "bicubic"] = "bicubic",
        crop: Annotated[float, Field(ge=0.1, le=1)] = 1.0,
        crop_mode: Literal["center", "squash"] = "center",
    ):
        super().__init__(crop_size, normalize)
        self.interpolation, self.share, self.crop_mode = interpolation, crop, crop_mode

    def box(self, params: Params, height: int, width: int) -> Tensor:
        """The kept part in pixels of the image, for workers that cut and resize it themselves."""
        short = min(height, width)
        size = (height, width) if self.crop_mode == "squash" else (short, short)
        kept_height, kept_width = (max(1, round(self.share * side)) for side in size)
        top, left = round((height - kept_height) / 2), round((width - kept_width) / 2)
        return torch.tensor([[top, left, kept_height, kept_width]])

    def steps(self) -> list[dict[str, Any]]:
        """What becomes of a square image before it is normalized, one step after the other, for other programs."""
        target, _ = self._resized(1, 1)
        return [{"resize": target, "interpolation": self.interpolation}, {"center_crop": self.size}]

    def crop(self, images: Tensor, params: Params) -> Tensor:
        """Uint8 [B, 3, H, W] to whole levels in float32 [B, 3, size, size]."""
        target = self._resized(*images.shape[-2:])
        # On the processor torch resizes bytes, ten times as fast as floats; a GPU has no such kernel.
        levels = images if images.device.type == "cpu" else images.float()
        resized = functional.interpolate(levels, target, mode=self.interpolation, antialias=True)
        top, left = (round((side - self.size) / 2) for side in target)
        kept = resized[:, :, top : top + self.size, left : left + self.size]
        return kept.float() if kept.dtype == torch.uint8 else kept.round().clamp(0, 255)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        short = int(self.size / self.share)
        if self.crop_mode == "squash":
            return short, short
        if height < width:
            return short, int(short * width / height)
        return int(short * height / width), short
