"""What becomes of a pixel's color: PIL's 8-bit operations on float32 batches of whole levels 0..255.

Every function takes one parameter per image and keeps PIL's rounding, so that an image goes through several
operations as it does there. (ITU-R 601 luminance, Image.blend, ImageEnhance, 8-bit HSV.) Colors come as three channels
of their own: each operation is then one loop over pixels, which a compiled graph fuses with its neighbors.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Channels = tuple[Tensor, ...]  # red, green and blue, each [B, H, W]

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # codes of the jitter's operations in its order
LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # PIL's ITU-R 601 weights, exact in float32


def works_on_all(device: torch.device) -> bool:
    """Whether an operation that concerns some images is done for all: where sizes that depend on data are expensive."""
    return device.type != "cpu" or torch.compiler.is_compiling()


def apply_where(mask: Tensor, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """function(images) for the images of [B, C, H, W] of which mask [B] is true, on the processor in place."""
    if works_on_all(images.device):
        return torch.where(mask[:, None, None, None], function(images), images)
    rows = mask.nonzero()[:, 0]
    return images.index_copy_(0, rows, function(images.index_select(0, rows)))


def recolor_where(
    mask: Tensor, function: Callable[..., Channels], channels: Channels, *parameters: Tensor, neutral: bool = False
) -> Channels:
    """function(channels, *parameters) for the images of which mask [B] is true, on the processor in place.

    neutral: the function leaves the others as they are anyway.
    """
    if works_on_all(mask.device):
        changed = function(channels, *parameters)
        if neutral:
            return changed
        return tuple(torch.where(mask[:, None, None], new, old) for new, old in zip(changed, channels, strict=True))
    rows = mask.nonzero()[:, 0]
    some = tuple(channel.index_select(0, rows) for channel in channels)
    for channel, new in zip(channels, function(some, *(p[rows] for p in parameters)), strict=True):
        channel.index_copy_(0, rows, new)
    return channels


def to_gray(channels: Channels) -> Tensor:
    """Luminance in whole levels, [B, H, W] (PIL's convert("L"))."""
    red, green, blue = channels
    gray = red * LUMA[0]
    return gray.add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).add_(0.5).floor_()


def grayscale(channels: Channels) -> Channels:
    """Luminance in all three channels."""
    return (to_gray(channels),) * 3


def blend(degenerate: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """PIL's Image.blend: degenerate + factor (images - degenerate), clipped to 0..255 and cut to whole levels."""
    return (images - degenerate).mul_(factor).add_(degenerate).clamp_(0, 255).floor_()


def adjust(channels: Channels, blend_row: Tensor) -> Channels:
    """Blend each image with black (brightness), its mean gray (contrast) or its gray (saturation).

    blend_row: [B, 3], the factor, the part of gray and the part of mean gray (0 or 1) in what is blended with.
    """
    factor, gray_part, mean_part = blend_row[:, :, None, None].unbind(1)
    gray = to_gray(channels)
    mean = gray.mean((1, 2), keepdim=True).mul_(mean_part).add_(0.5).floor_()
    degenerate = torch.addcmul(mean, gray, gray_part)
    return tuple(blend(degenerate, channel, factor) for channel in channels)


def smooth(images: Tensor) -> Tensor:
    """PIL's ImageFilter.SMOOTH, a 3 x 3 mean in which the middle counts 5 of 13; the border stays as it is."""
    rows = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inner = images[:, :, 1:-1, 1:-1]
    smoothed = images.clone()
    smoothed[:, :, 1:-1, 1:-1] = total.add_(inner, alpha=4).div_(13).add_(0.5).floor_()
    return smoothed


def shift_hue(channels: Channels, shift: Tensor) -> Channels:
    """Turn the hue by shift [B], a share of the full circle, in PIL's 8-bit HSV."""
    red, green, blue = channels
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    is_red, is_green = red == value, green == value
    ramp = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    offset = torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))
    ramp = ramp.div_(chroma.clamp(min=1)).add_(offset)
    # PIL's hue is floor(255 (ramp / 6 mod 1)); below 0 the 255 that its mod adds are -1 on the circle of 256.
    hue = (ramp * 42.5).floor_().sub_((ramp < 0).float())
    hue = hue.mul_(1 / 256).add_((shift * 255).trunc().div(256)[:, None, None])
    sector = hue.sub_(hue.floor()).mul_(256 * 6 / 255)
    saturation = chroma.div_(value.clamp(min=1)).mul_(255).floor_()
    chroma = saturation.mul_(value).mul_(1 / 255)
    base = value.sub_(chroma).add_(0.5)
    shares = (
        (sector - 3).abs_().sub_(1),
        (sector - 2).abs_().neg_().add_(2),
        (sector - 4).abs_().neg_().add_(2),
    )
    return tuple(torch.addcmul(base, share.clamp_(0, 1), chroma).floor_() for share in shares)


def jitter_blends(order: Tensor, factors: Tensor, mask: Tensor) -> Tensor:
    """The blends of `jitter` in the order they are done: float32 [B, 6, 3], rows as `adjust` takes them.

    order: [B, 4], a permutation of the four operations; factors: [B, 3] of brightness, contrast, saturation;
    mask: [B], false leaves an image as it is. The hue, the expensive operation, is turned once for all images: the
    blends that stand before it in an image's order are done in the first three places and those after it in the
    last three, with factor 1, which changes nothing, where it is not their turn.
    """
    turn = (order == HUE).to(torch.uint8).argmax(1, keepdim=True)
    place = torch.arange(3, device=order.device)
    operation = order.gather(1, place + (place >= turn))
    factor = torch.where(mask[:, None], factors.gather(1, operation), 1.0)
    factor = torch.cat([torch.where(place < turn, factor, 1.0), torch.where(place < turn, 1.0, factor)], 1)
    operation = torch.cat([operation, operation], 1)
    return torch.stack([factor, operation == SATURATION, operation == CONTRAST], 2)


def jitter(channels: Channels, blends: Tensor, shift: Tensor, mask: Tensor) -> Channels:
    """Color jitter as torchvision does it, the operations in each image's own order.

    blends: [B, 6, 3] from `jitter_blends`; shift: [B] of the hue, in images where mask [B] is true.
    """
    for place in range(3):
        channels = adjust_some(channels, blends[:, place])
    channels = recolor_where(mask, shift_hue, channels, shift)
    for place in range(3, 6):
        channels = adjust_some(channels, blends[:, place])
    return channels


def adjust_some(channels: Channels, blend_row: Tensor) -> Channels:
    """`adjust`, without the work for factors of 1."""
    return recolor_where(blend_row[:, 0] != 1, adjust, channels, blend_row, neutral=True)
