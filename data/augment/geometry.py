"""Where pixels come from: crop boxes, PIL's bilinear resize, flips and affine maps, each image with its own."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from system.errors import UserError

NUM_TRIES = 10  # boxes tried before the central one, as torchvision's RandomResizedCrop does
FIXED_POINT = 65536  # PIL samples nearest neighbors at coordinates in 16.16 fixed point
HALF = 0.5 + 2**-12  # rounds halves up, as PIL does, for all the last digits of float32


def random_resized_box(
    area: Tensor, aspect: Tensor, position: Tensor, height: int, width: int, ratio: tuple[float, float]
) -> Tensor:
    """Boxes of torchvision's RandomResizedCrop: the first of the tried ones that fits, else the central one.

    area (share of the image) and aspect (width / height) are [B, tries], position is [B, 2], uniform in 0..1
    (top, left). Returns int64 [B, 4]: top, left, height, width.
    """
    widths = (area * (height * width) * aspect).sqrt().round()
    heights = (area * (height * width) / aspect).sqrt().round()
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    size = torch.cat([heights.gather(1, first), widths.gather(1, first)], 1)
    room = torch.stack([height - size[:, 0], width - size[:, 1]], 1)
    corner = torch.minimum((position * (room + 1)).floor(), room)
    found = fits.any(1, keepdim=True)
    central = central_box(height, width, ratio)
    parts = [corner[:, :1], corner[:, 1:], size[:, :1], size[:, 1:]]
    return torch.cat([torch.where(found, part, float(c)) for part, c in zip(parts, central, strict=True)], 1).long()


def central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest central box whose aspect is within ratio: what is cut when no try fitted."""
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        box_width = round(height * ratio[1])
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def random_square_box(position: Tensor, height: int, width: int, size: int) -> Tensor:
    """Squares of side size at a uniform place; position [B, 2] in 0..1. Returns int64 [B, 4]."""
    require_room(height, width, size)
    room = torch.stack(
        [torch.full_like(position[:, 0], height - size), torch.full_like(position[:, 0], width - size)], 1
    )
    corner = torch.minimum((position * (room + 1)).floor(), room).long()
    return torch.cat([corner, torch.full_like(corner, size)], 1)


def require_room(height: int, width: int, size: int) -> None:
    """Raise UserError when an image is too small for a crop of side size."""
    if min(height, width) < size:
        raise UserError(
            f"an image of {height} x {width} pixels is too small for crop_size {size}: "
            "lower crop_size or bring the images to that size"
        )


def cut(images: Tensor, box: Tensor, size: int) -> Tensor:
    """Cut the squares of side size that box [B, 4] names out of [B, C, H, W], without interpolation."""
    if images.shape[-2:] == (size, size):
        return images
    steps = torch.arange(size, device=images.device)
    rows = (box[:, 0, None] + steps)[:, :, None]
    columns = (box[:, 1, None] + steps)[:, None, :]
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[sample, rows, columns].permute(0, 3, 1, 2)


def resize_weights(start: Tensor, length: Tensor, source: int, target: int, mirrored: Tensor | None = None) -> Tensor:
    """PIL's antialiased bilinear filter as matrices: target samples from source pixels start..start+length.

    start, length: [B]; mirrored [B]: which matrices run backwards. Returns float32 [B, target, source]; rows sum
    to 1, pixels outside the crop weigh nothing.
    """
    steps = torch.arange(target, device=start.device, dtype=torch.float32)
    if mirrored is not None:
        steps = torch.where(mirrored[:, None], target - 1 - steps, steps)
    scale = (length.float() / target)[:, None]
    slope = 1 / scale.clamp(min=1)
    centers = (steps + 0.5) * scale
    pixels = torch.arange(source, device=start.device, dtype=torch.float32) - start[:, None]
    inside = (pixels >= 0) & (pixels < length[:, None])
    pixels = torch.where(inside, pixels + 0.5, math.inf)
    distance = (pixels[:, None, :] - centers[:, :, None]).abs_()
    weights = distance.mul_(-slope[:, :, None]).add_(1).clamp_(min=0)
    return weights.div_(weights.sum(-1, keepdim=True))


def crop_resize(images: Tensor, box: Tensor, size: int, mirrored: Tensor | None = None) -> Tensor:
    """Cut box [B, 4] out of uint8 [B, 3, H, W] and resize it to size x size as PIL does (bilinear, antialiased).

    Two matrix products per image, across (backwards where mirrored [B], which flips the result) and then down,
    each rounded to whole levels. Returns float32 0..255.
    """
    num_images, channels, height, width = images.shape
    across = resize_weights(box[:, 1], box[:, 3], width, size, mirrored)
    down = resize_weights(box[:, 0], box[:, 2], height, size)
    rows = torch.bmm(images.float().reshape(num_images, channels * height, width), across.transpose(1, 2))
    rows = rows.add_(HALF).floor_().view(num_images, channels, height, size)
    return torch.matmul(down[:, None], rows).add_(HALF).floor_()


def mirror(images: Tensor) -> Tensor:
    """Left to right."""
    return images.flip(-1)


def flip(images: Tensor, mask: Tensor) -> Tensor:
    """Mirror the images of [B, C, H, W] for which mask [B] is true, left to right."""
    return torch.where(mask[:, None, None, None], images.flip(-1), images)


def rotation(angle: Tensor, height: int, width: int) -> Tensor:
    """Maps of PIL's Image.rotate, angle [B] in degrees about the center: [B, 2, 3], from output to input."""
    radians = -torch.deg2rad(angle)
    cosine, sine = radians.cos(), radians.sin()
    x, y = width / 2, height / 2
    rows = [cosine, sine, x - x * cosine - y * sine, -sine, cosine, y + x * sine - y * cosine]
    return torch.stack(rows, 1).view(-1, 2, 3)


def shear(horizontal: Tensor, vertical: Tensor) -> Tensor:
    """Maps (1, horizontal, 0), (vertical, 1, 0), about the top-left corner: [B, 2, 3]."""
    one, zero = torch.ones_like(horizontal), torch.zeros_like(horizontal)
    return torch.stack([one, horizontal, zero, vertical, one, zero], 1).view(-1, 2, 3)


def translation(right: Tensor, down: Tensor) -> Tensor:
    """Maps that read right and down [B] pixels further on, as whole pixels the way PIL takes them: [B, 2, 3]."""
    one, zero = torch.ones_like(right), torch.zeros_like(right)
    rows = [one, zero, (right + 0.5).floor(), zero, one, (down + 0.5).floor()]
    return torch.stack(rows, 1).view(-1, 2, 3)


def affine_nearest(images: Tensor, matrix: Tensor) -> Tensor:
    """PIL's Image.transform(AFFINE, NEAREST) of [B, C, H, W], black outside, in its 16.16 fixed point.

    matrix: [B, 2, 3], from output pixels to input pixels, in float64 where the device has it.
    """
    num_images, channels, height, width = images.shape
    start = matrix[:, :, 2] + 0.5 * (matrix[:, :, 0] + matrix[:, :, 1])
    steps, start = ((part * FIXED_POINT + 0.5).floor().int() for part in (matrix[:, :, :2], start))
    x = torch.arange(width, device=images.device, dtype=torch.int32) * steps[..., :1]
    y = torch.arange(height, device=images.device, dtype=torch.int32) * steps[..., 1:] + start[..., None]
    columns, rows = (x[:, :, None, :] + y[:, :, :, None]).bitwise_right_shift_(16).unbind(1)
    inside = (columns.clamp(0, width - 1) == columns).logical_and_(rows.clamp(0, height - 1) == rows)
    index = (rows * width).add_(columns).mul_(inside).long().view(num_images, 1, height * width)
    taken = images.reshape(num_images, channels, height * width).gather(2, index.expand(-1, channels, -1))
    return taken.view_as(images).mul_(inside[:, None].to(images.dtype))


def affine_bilinear(images: Tensor, matrix: Tensor, size: int) -> Tensor:
    """Sample float [B, C, H, W] at matrix [B, 2, 3], in coordinates from -1 to 1, to size x size; 0 outside."""
    grid = functional.affine_grid(matrix, [len(images), images.shape[1], size, size], align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def hole_mask(length: Tensor, centers: Tensor, size: int) -> Tensor:
    """Where cutout's holes are: bool [B, 1, size, size].

    length: [B]; centers: [B, holes, 2] in pixels. A hole spans center - length // 2 to center + length // 2
    (exclusive) both ways and is clipped at the border.
    """
    half = (length // 2)[:, None, None, None]
    steps = torch.arange(size, device=length.device)
    inside = (steps >= centers[..., None] - half) & (steps < centers[..., None] + half)
    return (inside[:, :, 0, :, None] & inside[:, :, 1, None, :]).any(1, keepdim=True)
