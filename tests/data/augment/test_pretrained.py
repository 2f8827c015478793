"""The transform of pretrained networks, against PIL and torchvision."""

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode, functional

from data.augment.pretrained import Pretrained
from system.errors import ConfigError

NORMALIZE = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
LEVELS = {"mean": [0.0] * 3, "std": [1 / 255] * 3}


def images(height, width, batch=2):
    """Noise that no filter takes out of 0..255: where that happens, PIL's two directions cannot change places."""
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(64, 192, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


def by_pil(image, size, crop, interpolation, crop_mode="center"):
    """Uint8 [3, size, size] by torchvision's Resize and CenterCrop of a PIL image."""
    short = int(size / crop)
    target = [short, short] if crop_mode == "squash" else [short]
    mode = InterpolationMode.BICUBIC if interpolation == "bicubic" else InterpolationMode.BILINEAR
    picture = functional.resize(functional.to_pil_image(image), target, mode)
    return functional.pil_to_tensor(functional.center_crop(picture, [size, size]))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop", [1.0, 0.875])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize(
    ("height", "width", "size"), [(32, 32, 128), (97, 61, 64), (75, 140, 48), (224, 224, 96), (40, 41, 40), (1, 3, 16)]
)
def test_pixels_are_those_of_pil(height, width, size, interpolation, crop, crop_mode):
    batch = images(height, width)
    found = Pretrained(size, LEVELS, interpolation, crop, crop_mode)(batch).round()
    expected = torch.stack([by_pil(image, size, crop, interpolation, crop_mode) for image in batch]).float()
    difference = (found - expected).abs()
    assert difference.max() <= 1 and difference.mean() < 0.3  # Pillow chooses which direction comes first by size


def test_levels_are_normalized():
    batch = images(32, 32)
    mean, std = (torch.tensor(NORMALIZE[name])[:, None, None] for name in ("mean", "std"))
    levels = Pretrained(64, LEVELS)(batch).round()
    assert torch.allclose(Pretrained(64, NORMALIZE)(batch), (levels / 255 - mean) / std, atol=1e-5)


@pytest.mark.parametrize(
    ("crop_mode", "box"), [("center", [5, 25, 70, 70]), ("squash", [5, 8, 70, 105])], ids=["center", "squash"]
)
def test_workers_are_told_the_kept_part(crop_mode, box):
    strategy = Pretrained(32, NORMALIZE, crop=0.875, crop_mode=crop_mode)
    assert strategy.box({}, 80, 120).tolist() == [box]


def test_the_same_for_every_size_of_batch():
    batch = images(50, 70, batch=20)
    strategy = Pretrained(64, NORMALIZE, crop=0.9)
    assert torch.equal(strategy(batch)[7], strategy(batch[7]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interpolation": "lanczos"}, "interpolation is lanczos; it should be 'bilinear' or 'bicubic'"),
        ({"crop_mode": "border"}, "crop_mode is border; it should be 'center' or 'squash'"),
        ({"crop": 0}, "crop is 0; it should be greater than or equal to 0.1"),
        ({"crop_size": 0}, "crop_size is 0; it should be greater than or equal to 1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Pretrained(**{"crop_size": 32, "normalize": NORMALIZE, **options})


def test_pil_is_what_images_are_shown_with():
    """The orientation of the axes: a picture that is red on the left stays so."""
    picture = Image.new("RGB", (4, 8), "black")
    picture.paste("red", (0, 0, 2, 8))
    view = Pretrained(16, LEVELS)(functional.pil_to_tensor(picture))
    assert view[0, :, :6].min() > 200 and view[0, :, 10:].max() < 50 and view[1:].max() == 0
