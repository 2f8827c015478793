import pytest
import torch
import torchvision.transforms.functional as reference
from PIL import ImageEnhance, ImageFilter
from torch import Tensor

from data.augment import color
from tests.data.augment.test_geometry import from_pil, textured, to_pil

ROWS = {"Brightness": (0.0, 0.0), "Contrast": (0.0, 1.0), "Color": (1.0, 0.0)}
ADJUST = (
    reference.adjust_brightness,
    reference.adjust_contrast,
    reference.adjust_saturation,
    reference.adjust_hue,
)


def by_pil(images: Tensor, function, *parameters: Tensor) -> Tensor:
    rows = zip(images, *(p.tolist() for p in parameters), strict=True)
    return torch.stack([from_pil(function(to_pil(image), *values)) for image, *values in rows]).float()


def recolored(function, images: Tensor, *parameters: Tensor) -> Tensor:
    return torch.stack(function(images.unbind(1), *parameters), 1)


def draws(num_images: int, seed: int = 3):
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(num_images, 4, generator=generator).argsort(1)
    factors = 0.6 + 0.8 * torch.rand(num_images, 3, generator=generator)
    hue = 0.2 * torch.rand(num_images, generator=generator) - 0.1
    return order, factors, hue, torch.rand(num_images, generator=generator) < 0.8


def test_gray_is_exact():
    images = textured(20, 24, 24)
    expected = by_pil(images, lambda i: i.convert("L").convert("RGB"))
    assert torch.equal(recolored(color.grayscale, images.float()), expected)


@pytest.mark.parametrize("name", ROWS)
def test_blends_are_exact(name):
    images = textured(80, 16, 16)
    factor = torch.linspace(0, 2, 80)
    rows = torch.cat([factor[:, None], torch.tensor([ROWS[name]]).expand(80, 2)], 1)
    expected = by_pil(images, lambda i, f: getattr(ImageEnhance, name)(i).enhance(f), factor)
    assert torch.equal(recolored(color.adjust, images.float(), rows), expected)


def test_smooth_is_exact():
    images = textured(10, 17, 9)
    assert torch.equal(color.smooth(images.float()), by_pil(images, lambda i: i.filter(ImageFilter.SMOOTH)))


@pytest.mark.parametrize("kind", ["textured", "random", "few levels"])
def test_hue_is_within_one_level(kind):
    images = textured(60, 24, 24)
    if kind != "textured":
        images = torch.randint(0, 256, images.shape, generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    if kind == "few levels":  # gray, saturated and primary colors
        images = images // 85 * 85
    hue = torch.linspace(-0.5, 0.5, 60)
    difference = (recolored(color.shift_hue, images.float(), hue) - by_pil(images, reference.adjust_hue, hue)).abs()
    # PIL cuts the hue to 8 bits: where its last digit of float32 tips the other way, one of 256 steps is missed.
    assert (difference > 1).float().mean() < 2e-3
    assert difference.max() <= 6


def test_jitter_is_that_of_torchvision_in_every_order():
    images = textured(240, 16, 16)
    order, factors, hue, mask = draws(240)
    blends = color.jitter_blends(order, factors, mask)
    jittered = recolored(color.jitter, images.float(), blends, hue, mask)
    values = torch.cat([factors, hue[:, None]], 1)

    def chain(image, operations, values, applied):
        for operation in operations if applied else ():
            image = ADJUST[operation](image, values[operation])
        return image

    difference = (jittered - by_pil(images, chain, order, values, mask)).abs()
    assert (difference > 1).float().mean() < 5e-3
    assert difference.mean() < 0.02
    assert torch.equal(jittered[~mask], images[~mask].float())
    assert len({tuple(o) for o in order.tolist()}) == 24


def test_working_on_all_images_gives_what_working_on_some_gives(monkeypatch):
    images = textured(50, 16, 16).float()
    order, factors, hue, mask = draws(50)
    blends = color.jitter_blends(order, factors, mask)
    some = recolored(color.jitter, images.clone(), blends, hue, mask)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(recolored(color.jitter, images, blends, hue, mask), some)


def test_a_division_in_the_last_place_moves_the_hue_by_a_step_at_the_most(monkeypatch):
    """A step is 6 / 255 of the chroma, in one channel; what devices may differ in, tests/gpu/checks.py tells."""
    channels = tuple(torch.randint(256, (3, 4, 64, 64), generator=torch.Generator().manual_seed(0)).float())
    shift = torch.tensor([0.0, 0.05, -0.05, 0.1])
    expected = torch.stack(color.shift_hue(channels, shift))
    divide = torch.Tensor.div_
    monkeypatch.setattr(torch.Tensor, "div_", lambda x, y: divide(x, y).mul_(1 - 2**-23))
    apart = (torch.stack(color.shift_hue(channels, shift)) - expected).abs()
    assert 0.01 < (apart > 0.5).float().mean() < 0.1
    assert 5 <= apart.max() <= 6 + 2  # chroma is cut to whole levels too
