"""Views for small images of signs, such as digits: an affine warp, strokes, blur, contrast, noise, erasing; no flip."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from data.augment import color, geometry
from data.augment.strategy import Normalize, Params, Strategy, uniform
from system.sections import Fraction, Side, Span

BLUR_KERNEL = (0.25, 0.5, 0.25)


class Affine(Strategy):
    """One bilinear warp per image, black outside, then strokes, blur, contrast, noise and erasing, normalize.

    Args:
        crop_size: side of the views, in pixels.
        scale: smallest and largest side of the window that is looked at, log-uniform; below 1 magnifies.
        aspect: its log aspect ratio, in both directions.
        rotation: degrees, in both directions.
        shear: degrees, in both directions.
        shift: share of the side, in both directions.
        blur: probability.
        contrast: factor from 1 - contrast to 1 + contrast.
        noise: largest standard deviation, a share of full brightness.
        erasing: probability.
        erasing_side: largest side of the erased square, a share of the view's.
        stroke: how far pixels go at most towards the brightest of the 3 x 3 around them, or the darkest, which makes
            bright lines thicker or thinner, by up to a pixel on each side.
    """

    def __init__(
        self,
        crop_size: Side,
        normalize: Normalize,
        scale: Span[Annotated[float, Field(gt=0, le=10)]] = (0.7, 1.15),
        aspect: Annotated[float, Field(ge=0, le=2)] = 0.2,
        rotation: Annotated[float, Field(ge=0, le=180)] = 15.0,
        shear: Annotated[float, Field(ge=0, le=60)] = 15.0,
        shift: Fraction = 0.12,
        blur: Fraction = 0.5,
        contrast: Fraction = 0.4,
        noise: Fraction = 0.1,
        erasing: Fraction = 0.5,
        erasing_side: Fraction = 0.5,
        stroke: Fraction = 0.0,
    ):
        super().__init__(crop_size, normalize)
        self.scale = tuple(scale)
        self.aspect, self.rotation, self.shear, self.shift = aspect, rotation, shear, shift
        self.blur, self.contrast, self.noise, self.erasing, self.stroke = blur, contrast, noise, erasing, stroke
        self.longest = max(1, round(erasing_side * crop_size))

    def draw(self, num_images: int, generator: torch.Generator | None = None) -> Params:
        """The warp's matrices, what is blurred, contrast factors, the noise, and the erased squares."""
        draws = torch.rand(10, num_images, generator=generator)
        erased = draws[9] < self.erasing
        length = torch.randint(1, self.longest + 1, (num_images,), generator=generator)
        noise = torch.randn(num_images, 1, self.size, self.size, generator=generator)
        centers = torch.randint(self.size, (num_images, 1, 2), generator=generator)
        # Drawn last and only where wanted, so that other runs keep their draws.
        strokes = torch.rand(num_images, generator=generator) if self.stroke else torch.full([num_images], 0.5)
        return {
            "matrix": self.matrices(2 * draws[:6] - 1),
            "blur": draws[6] < self.blur,
            "contrast": uniform(draws[7], 1 - self.contrast, 1 + self.contrast),
            "noise": noise * (255 * self.noise * draws[8])[:, None, None, None],
            "length": length * erased,
            "centers": centers,
            "stroke": self.stroke * (2 * strokes - 1),
        }

    def matrices(self, draws: Tensor) -> Tensor:
        """Maps from output to input coordinates (-1..1): [6, B] draws in -1..1 to float32 [B, 2, 3]."""
        angle = draws[0] * math.radians(self.rotation)
        slant = (draws[1] * math.radians(self.shear)).tan()
        low, high = (math.log(s) for s in self.scale)
        side = uniform((draws[2] + 1) / 2, low, high).exp()
        stretch = (draws[3] * self.aspect / 2).exp()
        wide, tall = side * stretch, side / stretch
        cosine, sine = angle.cos(), angle.sin()
        # rotation x shear x scale; a shift of one side is 2 in these coordinates
        rows = [
            cosine * wide,
            (cosine * slant - sine) * tall,
            2 * self.shift * draws[4],
            sine * wide,
            (sine * slant + cosine) * tall,
            2 * self.shift * draws[5],
        ]
        return torch.stack(rows, 1).view(-1, 2, 3)

    def box(self, params: Params, height: int, width: int) -> Tensor:
        """The whole image: the warp does the rest."""
        return torch.tensor([0, 0, height, width]).expand(len(params["length"]), 4)

    def crop(self, images: Tensor, params: Params) -> Tensor:
        """The whole image, resized where it has another size."""
        if images.shape[-2:] == (self.size, self.size):
            return images.float()
        box = self.box(params, *images.shape[-2:]).to(images.device)
        return geometry.crop_resize(images, box, self.size)

    def finish(self, cropped: Tensor, params: Params) -> Tensor:
        """Warp, thicken or thin, blur, contrast about the mean, noise, clip, normalize, erase."""
        images = geometry.affine_bilinear(cropped, params["matrix"], self.size)
        images = thicken(images, params["stroke"]) if self.stroke else images
        images = color.apply_where(params["blur"], blur, images)
        mean = images.mean((1, 2, 3), keepdim=True)
        images = torch.addcmul(mean, images - mean, params["contrast"][:, None, None, None])
        images = images.add_(params["noise"]).clamp_(0, 255)
        holes = geometry.hole_mask(params["length"], params["centers"], self.size)
        return self.normalize(images).masked_fill(holes, 0)


def thicken(images: Tensor, amount: Tensor) -> Tensor:
    """Go so far towards the brightest pixel of the 3 x 3 around each, or by amounts [B] below 0 towards the darkest."""
    brightest, darkest = functional.max_pool2d(images, 3, 1, 1), -functional.max_pool2d(-images, 3, 1, 1)
    towards = torch.where(amount[:, None, None, None] > 0, brightest, darkest)
    return torch.lerp(images, towards, amount.abs()[:, None, None, None])


def blur(images: Tensor) -> Tensor:
    """Binomial 3 x 3 mean, the border repeated."""
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    side, middle, _ = BLUR_KERNEL
    rows = side * (padded[:, :, :-2] + padded[:, :, 2:]) + middle * padded[:, :, 1:-1]
    return side * (rows[..., :-2] + rows[..., 2:]) + middle * rows[..., 1:-1]
