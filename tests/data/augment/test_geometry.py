import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data.augment import Evaluation, geometry
from system.errors import UserError


def textured(num_images: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num_images, 3, height // 4 + 1, width // 4 + 1, generator=generator) * 300 - 20
    images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    images += torch.randn(images.shape, generator=generator) * 20
    return images.clamp(0, 255).to(torch.uint8)


def to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def from_pil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def torchvision_box(area, aspect, position, height, width, ratio):
    """RandomResizedCrop.get_params with given draws, as torchvision documents it."""
    for a, r in zip(area, aspect, strict=True):
        w = round((height * width * a * r) ** 0.5)
        h = round((height * width * a / r) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return [int(position[0] * (height - h + 1)), int(position[1] * (width - w + 1)), h, w]
    h, w = height, width
    if width / height < min(ratio):
        h = round(w / min(ratio))
    elif width / height > max(ratio):
        w = round(h * max(ratio))
    return [(height - h) // 2, (width - w) // 2, h, w]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 61), (12, 100), (100, 12), (1, 9)])
def test_boxes_are_those_of_torchvision(height, width):
    ratio = (3 / 4, 4 / 3)
    generator = torch.Generator().manual_seed(0)
    area, aspect = torch.rand(2, 200, 10, generator=generator, dtype=torch.float64)
    area, aspect = 0.2 + 0.8 * area, torch.exp((2 * aspect - 1) * np.log(4 / 3))
    position = torch.rand(200, 2, generator=generator, dtype=torch.float64)
    boxes = geometry.random_resized_box(area, aspect, position, height, width, ratio)
    draws = zip(area.tolist(), aspect.tolist(), position.tolist(), strict=True)
    assert boxes.tolist() == [torchvision_box(*draw, height, width, ratio) for draw in draws]


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (40, 61, 24), (20, 23, 48)])
def test_crop_and_resize_are_those_of_pil(height, width, size):
    images = textured(40, height, width)
    generator = torch.Generator().manual_seed(1)
    sides = [torch.randint(3, side + 1, (40,), generator=generator) for side in (height, width)]
    corners = [
        (torch.rand(40, generator=generator) * (side - s + 1)).long()
        for side, s in zip((height, width), sides, strict=True)
    ]
    box = torch.stack([*corners, *sides], 1)
    cropped = geometry.crop_resize(images, box, size)
    expected = torch.stack(
        [
            from_pil(to_pil(i).crop((x, y, x + w, y + h)).resize((size, size), Image.Resampling.BILINEAR))
            for i, (y, x, h, w) in zip(images, box.tolist(), strict=True)
        ]
    )
    difference = (cropped - expected).abs()
    assert difference.max() <= 1
    # Where the filter's weights make exact halves, PIL's 22-bit weights fall to either side of them.
    assert (difference > 0).float().mean() < (1e-3 if size == height else 5e-2)


def test_mirrored_crop_is_the_flipped_crop():
    images = textured(8, 30, 40)
    box = torch.tensor([[3, 5, 17, 30]]).repeat(8, 1)
    mask = torch.arange(8) % 2 == 0
    mirrored = geometry.crop_resize(images, box, 16, mirrored=mask)
    assert (mirrored - geometry.flip(geometry.crop_resize(images, box, 16), mask)).abs().max() <= 1


def test_flip_mirrors_the_masked_images_only():
    images = torch.arange(12).view(2, 1, 2, 3)
    flipped = geometry.flip(images, torch.tensor([True, False]))
    assert flipped[0, 0].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert torch.equal(flipped[1], images[1])


def test_cut_takes_every_square():
    images = textured(9, 7, 10)
    position = torch.rand(9, 2)
    box = geometry.random_square_box(position, 7, 10, 5)
    assert (box[:, 0] == (position[:, 0] * 3).long()).all()
    assert (box[:, 1] == (position[:, 1] * 6).long()).all()
    expected = [i[:, y : y + 5, x : x + 5] for i, (y, x, _, _) in zip(images, box.tolist(), strict=True)]
    assert torch.equal(geometry.cut(images, box, 5), torch.stack(expected))


def test_too_small_images_are_named():
    with pytest.raises(UserError, match="7 x 10 pixels is too small for crop_size 8"):
        geometry.random_square_box(torch.rand(2, 2), 7, 10, 8)


@pytest.mark.parametrize("size", [(32, 32), (21, 40)])
def test_affine_maps_are_those_of_pil(size):
    height, width = size
    images = textured(60, height, width)
    amounts = torch.linspace(-1, 1, 60, dtype=torch.float64)
    zero = torch.zeros_like(amounts)
    cases = {
        "rotate": (geometry.rotation(30 * amounts, height, width), lambda i, v: i.rotate(30 * v)),
        "shear_x": (geometry.shear(0.1 * amounts, zero), affine(lambda v: (1, 0.1 * v, 0, 0, 1, 0))),
        "shear_y": (geometry.shear(zero, 0.1 * amounts), affine(lambda v: (1, 0, 0, 0.1 * v, 1, 0))),
        "right": (geometry.translation(3.2 * amounts, zero), affine(lambda v: (1, 0, 3.2 * v, 0, 1, 0))),
        "down": (geometry.translation(zero, 3.2 * amounts), affine(lambda v: (1, 0, 0, 0, 1, 3.2 * v))),
    }
    for name, (matrix, reference) in cases.items():
        expected = [from_pil(reference(to_pil(i), v)) for i, v in zip(images, amounts.tolist(), strict=True)]
        assert torch.equal(geometry.affine_nearest(images, matrix), torch.stack(expected)), name


def affine(coefficients):
    return lambda image, value: image.transform(image.size, Image.Transform.AFFINE, coefficients(value))


def test_bilinear_affine_identity_and_shift():
    images = torch.rand(2, 3, 8, 8)
    matrix = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).repeat(2, 1, 1)
    assert torch.allclose(geometry.affine_bilinear(images, matrix, 8), images, atol=1e-6)
    matrix[:, 0, 2] = 2 * 2 / 8  # reads two pixels further right
    shifted = geometry.affine_bilinear(images, matrix, 8)
    assert torch.allclose(shifted[..., :6], images[..., 2:], atol=1e-5)
    assert shifted[..., 6:].abs().max() == 0


def test_holes_span_the_center_and_are_clipped():
    length = torch.tensor([1, 2, 5, 8, 9])
    centers = torch.tensor([[[3, 3], [0, 0]], [[0, 9], [5, 5]], [[9, 9], [2, 7]], [[4, 0], [4, 9]], [[5, 5], [0, 5]]])
    expected = torch.zeros(5, 1, 10, 10, dtype=torch.bool)
    for i in range(5):
        half = int(length[i]) // 2
        for y, x in centers[i].tolist():
            expected[i, 0, max(0, y - half) : y + half, max(0, x - half) : x + half] = True
    assert torch.equal(geometry.hole_mask(length, centers, 10), expected)


def test_the_evaluation_crop_may_be_resized():
    """PIL's bilinear resize of the central crop, in whole levels."""
    images = torch.randint(256, (3, 3, 28, 28), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    strategy = Evaluation(20, {"mean": [0.0] * 3, "std": [1.0] * 3}, zoom_to=24)
    found = strategy(images) * 255
    assert strategy.size == 24
    for image, view in zip(images, found, strict=True):
        crop = Image.fromarray(image[:, 4:24, 4:24].permute(1, 2, 0).contiguous().numpy())
        expected = np.asarray(crop.resize((24, 24), Image.Resampling.BILINEAR), np.float32)
        assert np.abs(view.permute(1, 2, 0).numpy() - expected).max() <= 1.01
