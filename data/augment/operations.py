"""The 14 strong operations (RandAugment's set as SCAN uses it), each on a uint8 batch [B, 3, H, W] as PIL does it.

An operation takes the images and one magnitude per image, uniform in 0..1, which it maps to its own range.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from data.augment import color, geometry
from system.transfer import send

Operation = Callable[[Tensor, Tensor], Tensor]

MAX_ANGLE = 30.0  # degrees
MAX_SHEAR = 0.1
MAX_SHIFT = 0.1  # of the width or height
MIN_FACTOR, MAX_FACTOR = 0.05, 0.95  # of the blends; 1 leaves the image as it is
MIN_BITS, MAX_BITS = 4, 7


def wide(values: Tensor) -> Tensor:
    """In float64, in which PIL computes, where the device has it."""
    return values.float() if values.device.type == "mps" else values.double()


def identity(images: Tensor, magnitude: Tensor) -> Tensor:
    """The images as they are."""
    return images


def look_up(images: Tensor, table: Tensor) -> Tensor:
    """Replace levels by table uint8 [B, 3, 256]."""
    return table.gather(2, images.flatten(2).long()).view_as(images)


def autocontrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Stretch each channel to 0..255 (ImageOps.autocontrast)."""
    low, high = wide(images.flatten(2).amin(2, keepdim=True)), wide(images.flatten(2).amax(2, keepdim=True))
    levels = wide(torch.arange(256, device=images.device))
    # A tensor under the fraction bar alone would be inverted first, which rounds otherwise.
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)
    stretched = (levels * scale + -low * scale).trunc().clamp(0, 255)
    return look_up(images, torch.where(high > low, stretched, levels).to(torch.uint8))


def equalize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Spread each channel's levels evenly (ImageOps.equalize)."""
    levels = images.flatten(2).long()
    histogram = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(2, levels, torch.ones_like(levels))
    last = histogram.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - last) // 255
    before = histogram.cumsum(2) - histogram
    spread = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, spread, torch.arange(256, device=images.device)).to(torch.uint8)
    return table.gather(2, levels).view_as(images)


def solarize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Invert the levels at or above a threshold in 0..256."""
    highest_kept = (solarize_threshold(magnitude).ceil() - 1).to(torch.uint8)[:, None, None, None]
    inverted = (images > highest_kept).to(torch.uint8).mul_(255)
    return inverted.bitwise_xor_(images)


def solarize_threshold(magnitude: Tensor) -> Tensor:
    """Falling with the magnitude, never 0, so that the highest level kept is a uint8 too."""
    return 256 * (1 - magnitude)


def posterize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Keep the upper 4, 5, 6 or 7 bits."""
    bits = MIN_BITS + (magnitude * (MAX_BITS - MIN_BITS + 1)).long()
    mask = (256 - 2 ** (8 - bits)).to(torch.uint8)
    return images & mask[:, None, None, None]


def blend_with(gray_part: float, mean_part: float) -> Operation:
    """The blend of `color.adjust` with black, gray or mean gray, at a factor in the weakening range."""

    def operation(images: Tensor, magnitude: Tensor) -> Tensor:
        factor = strength(magnitude)
        share = torch.stack([factor, torch.full_like(factor, gray_part), torch.full_like(factor, mean_part)], 1)
        return torch.stack(color.adjust(images.float().unbind(1), share), 1).to(torch.uint8)

    return operation


def strength(magnitude: Tensor) -> Tensor:
    """The factor of a blend."""
    return MIN_FACTOR + (MAX_FACTOR - MIN_FACTOR) * magnitude


def sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blend with the smoothed image (ImageEnhance.Sharpness)."""
    pixels = images.float()
    return color.blend(color.smooth(pixels), pixels, strength(magnitude)[:, None, None, None]).to(torch.uint8)


def rotate(images: Tensor, magnitude: Tensor) -> Tensor:
    """Rotate about the center."""
    angle = wide(2 * magnitude - 1) * MAX_ANGLE
    return geometry.affine_nearest(images, geometry.rotation(angle, *images.shape[-2:]))


def shear(horizontal: bool) -> Operation:
    """Shear about the top-left corner."""

    def operation(images: Tensor, magnitude: Tensor) -> Tensor:
        amount = wide(2 * magnitude - 1) * MAX_SHEAR
        return geometry.affine_nearest(images, geometry.shear(amount * horizontal, amount * (not horizontal)))

    return operation


def translate(horizontal: bool) -> Operation:
    """Shift by a share of the width or height."""

    def operation(images: Tensor, magnitude: Tensor) -> Tensor:
        amount = wide(2 * magnitude - 1) * MAX_SHIFT * images.shape[-1 if horizontal else -2]
        return geometry.affine_nearest(images, geometry.translation(amount * horizontal, amount * (not horizontal)))

    return operation


OPERATIONS: dict[str, Operation] = {
    "identity": identity,
    "autocontrast": autocontrast,
    "equalize": equalize,
    "rotate": rotate,
    "solarize": solarize,
    "color": blend_with(gray_part=1, mean_part=0),
    "contrast": blend_with(gray_part=0, mean_part=1),
    "brightness": blend_with(gray_part=0, mean_part=0),
    "sharpness": sharpness,
    "shear_x": shear(horizontal=True),
    "translate_x": translate(horizontal=True),
    "translate_y": translate(horizontal=False),
    "posterize": posterize,
    "shear_y": shear(horizontal=False),
}


def apply_operations(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Send each image of uint8 [B, 3, H, W] through its operations, one round after the other.

    operation: int64 [B, rounds], places in OPERATIONS; on the processor, so that an accelerator need not wait for
    the sizes of the groups; magnitude: [B, rounds] in 0..1. In each round the images of one operation go through it
    together, and through it alone. Changes images in place.
    """
    operation = operation.cpu()
    orders = send(operation.argsort(0), images.device)
    for codes, order, strengths in zip(operation.unbind(1), orders.unbind(1), magnitude.unbind(1), strict=True):
        groups = order.split(torch.bincount(codes, minlength=len(OPERATIONS)).tolist())
        for function, rows in zip(OPERATIONS.values(), groups, strict=True):
            if function is not identity and len(rows):
                images.index_copy_(0, rows, function(images.index_select(0, rows), strengths[rows]))
    return images
