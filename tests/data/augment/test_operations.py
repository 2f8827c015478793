import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from data.augment.operations import OPERATIONS, apply_operations
from tests.data.augment.test_geometry import affine, from_pil, textured, to_pil


def enhance(kind):
    return lambda image, m: kind(image).enhance(0.05 + 0.9 * m)


PIL_OPERATIONS = {
    "identity": lambda image, m: image,
    "autocontrast": lambda image, m: ImageOps.autocontrast(image),
    "equalize": lambda image, m: ImageOps.equalize(image),
    "rotate": lambda image, m: image.rotate(30 * (2 * m - 1)),
    "solarize": lambda image, m: ImageOps.solarize(image, 256 * (1 - m)),
    "color": enhance(ImageEnhance.Color),
    "contrast": enhance(ImageEnhance.Contrast),
    "brightness": enhance(ImageEnhance.Brightness),
    "sharpness": enhance(ImageEnhance.Sharpness),
    "shear_x": affine(lambda m: (1, 0.1 * (2 * m - 1), 0, 0, 1, 0)),
    "translate_x": lambda image, m: affine(lambda m: (1, 0, 0.1 * (2 * m - 1) * image.width, 0, 1, 0))(image, m),
    "translate_y": lambda image, m: affine(lambda m: (1, 0, 0, 0, 1, 0.1 * (2 * m - 1) * image.height))(image, m),
    "posterize": lambda image, m: ImageOps.posterize(image, 4 + int(4 * m)),
    "shear_y": affine(lambda m: (1, 0, 0, 0.1 * (2 * m - 1), 1, 0)),
}


def special_images():
    """Flat, two-level, dark, bright and nearly empty histograms next to ordinary images."""
    images = textured(64, 32, 32)
    images[0] = 77
    images[1] = images[1] // 128 * 255
    images[2] //= 4
    images[3] = 180 + images[3] // 4
    images[4] = 9
    images[4, :, 0, :3] = 200
    images[5, 0] = 0
    return images


def test_every_operation_has_its_reference():
    assert list(OPERATIONS) == list(PIL_OPERATIONS)
    assert len(OPERATIONS) == 14


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_exact(name):
    images = special_images()
    magnitude = torch.rand(64, generator=torch.Generator().manual_seed(5))
    magnitude[:3] = torch.tensor([0.0, 0.5, 1 - 2**-24])
    expected = [from_pil(PIL_OPERATIONS[name](to_pil(i), m)) for i, m in zip(images, magnitude.tolist(), strict=True)]
    result = OPERATIONS[name](images, magnitude)
    assert result.dtype == torch.uint8
    assert torch.equal(result, torch.stack(expected))


def test_autocontrast_is_exact_for_every_range():
    levels = torch.arange(256).view(16, 16)
    for low in range(0, 250, 25):
        highs = torch.arange(low + 1, 256)
        images = levels.clamp(min=low).minimum(highs[:, None, None]).to(torch.uint8)[:, None].repeat(1, 3, 1, 1)
        expected = torch.stack([from_pil(ImageOps.autocontrast(to_pil(i))) for i in images])
        assert torch.equal(OPERATIONS["autocontrast"](images, torch.zeros(len(images))), expected)


def test_rounds_send_each_image_through_its_own_operations():
    images = textured(200, 20, 28)
    operation = torch.randint(14, (200, 4), generator=torch.Generator().manual_seed(6))
    magnitude = torch.rand(200, 4, generator=torch.Generator().manual_seed(7))
    names = list(OPERATIONS)

    def chain(image: Image.Image, codes, magnitudes):
        for code, m in zip(codes, magnitudes, strict=True):
            image = PIL_OPERATIONS[names[code]](image, m)
        return from_pil(image)

    rows = zip(images, operation.tolist(), magnitude.tolist(), strict=True)
    expected = torch.stack([chain(to_pil(i), o, m) for i, o, m in rows])
    assert torch.equal(apply_operations(images.clone(), operation, magnitude), expected)
