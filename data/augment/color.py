"""What becomes of a pixel's color: PIL's 8-bit operations on float32 [B, 3, H, W] batches of whole levels 0..255.

Every function takes one parameter per image and keeps PIL's rounding, so that an image goes through several
operations as it does there. (ITU-R 601 luminance, Image.blend, ImageEnhance, 8-bit HSV.)
"""

from collections.abc import Callable

import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # codes of the jitter's operations in its order
LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # PIL's ITU-R 601 weights, exact in float32


def apply_where(
    mask: Tensor, function: Callable[..., Tensor], images: Tensor, *parameters: Tensor, neutral: bool = False
) -> Tensor:
    """function(images, *parameters) for the images of which mask [B] is true; the others stay as they are.

    A processor works on these images alone, in place; a compiled graph and an accelerator, for which sizes that
    hang on the data are dear, work on all and choose. neutral: the function leaves the others as they are anyway.
    """
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        changed = function(images, *parameters)
        return changed if neutral else torch.where(mask[:, None, None, None], changed, images)
    rows = mask.nonzero()[:, 0]
    return images.index_copy_(0, rows, function(images.index_select(0, rows), *(p[rows] for p in parameters)))


def to_gray(images: Tensor) -> Tensor:
    """Luminance in whole levels, [B, 1, H, W] (PIL's convert("L"))."""
    red, green, blue = images.split(1, 1)
    gray = red * LUMA[0]
    return gray.add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).add_(0.5).floor_()


def grayscale(images: Tensor) -> Tensor:
    """Luminance in all three channels."""
    return to_gray(images).expand_as(images)


def blend(degenerate: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """PIL's Image.blend: degenerate + factor (images - degenerate), clipped to 0..255 and cut to whole levels."""
    return (images - degenerate).mul_(factor).add_(degenerate).clamp_(0, 255).floor_()


def adjust(images: Tensor, blend_row: Tensor) -> Tensor:
    """Blend each image with black (brightness), its mean gray (contrast) or its gray (saturation).

    blend_row: [B, 3], the factor, the part of gray and the part of mean gray (0 or 1) in what is blended with.
    """
    factor, gray_part, mean_part = blend_row[:, :, None, None, None].unbind(1)
    gray = to_gray(images)
    mean = gray.mean((1, 2, 3), keepdim=True).mul_(mean_part).add_(0.5).floor_()
    degenerate = torch.addcmul(mean, gray, gray_part)
    return blend(degenerate, images, factor)


def smooth(images: Tensor) -> Tensor:
    """PIL's ImageFilter.SMOOTH, a 3 x 3 mean in which the middle counts 5 of 13; the border stays as it is."""
    rows = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inner = images[:, :, 1:-1, 1:-1]
    smoothed = images.clone()
    smoothed[:, :, 1:-1, 1:-1] = total.add_(inner, alpha=4).div_(13).add_(0.5).floor_()
    return smoothed


def shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by shift [B], a share of the full circle, in PIL's 8-bit HSV."""
    red, green, blue = images.split(1, 1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    is_red, is_green = red == value, green == value
    ramp = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    offset = torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))
    ramp = ramp.div_(chroma.clamp(min=1)).add_(offset)
    # PIL's hue is floor(255 (ramp / 6 mod 1)); below 0 the 255 that its mod adds are -1 on the circle of 256.
    hue = (ramp * 42.5).floor_().sub_((ramp < 0).float())
    hue = hue.mul_(1 / 256).add_((shift * 255).trunc().div(256)[:, None, None, None])
    sector = hue.sub_(hue.floor()).mul_(256 * 6 / 255)
    saturation = chroma.div_(value.clamp(min=1)).mul_(255).floor_()
    chroma = saturation.mul_(value).mul_(1 / 255)
    base = value.sub_(chroma).add_(0.5)
    shares = (
        (sector - 3).abs_().sub_(1),
        (sector - 2).abs_().neg_().add_(2),
        (sector - 4).abs_().neg_().add_(2),
    )
    return torch.cat([torch.addcmul(base, share.clamp_(0, 1), chroma).floor_() for share in shares], 1)


def jitter_blends(order: Tensor, factors: Tensor, mask: Tensor) -> Tensor:
    """The blends of `jitter` in the order they are done: float32 [B, 6, 3], rows as `adjust` takes them.

    order: [B, 4], a permutation of the four operations; factors: [B, 3] of brightness, contrast, saturation;
    mask: [B], false leaves an image as it is. The hue, the dear operation, is turned once for all images: the
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


def jitter(images: Tensor, blends: Tensor, shift: Tensor, mask: Tensor) -> Tensor:
    """Color jitter as torchvision does it, the operations in each image's own order.

    blends: [B, 6, 3] from `jitter_blends`; shift: [B] of the hue, in images where mask [B] is true.
    """
    for place in range(3):
        images = adjust_some(images, blends[:, place])
    images = apply_where(mask, shift_hue, images, shift)
    for place in range(3, 6):
        images = adjust_some(images, blends[:, place])
    return images


def adjust_some(images: Tensor, blend_row: Tensor) -> Tensor:
    """`adjust`, without the work for factors of 1."""
    return apply_where(blend_row[:, 0] != 1, adjust, images, blend_row, neutral=True)
