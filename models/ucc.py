"""The networks of UCC (https://arxiv.org/abs/1906.07647): encoder, density layer with a counter, decoder."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from system.errors import ConfigError
from system.sections import Width

NUM_FEATURES, NUM_BINS, SIGMA = 10, 11, 0.1
FIRST_BIAS = 0.1
STEP = 4  # sides are halved twice
MOST = 128  # pixels of a side: the linear layers grow with its square


class Block(nn.Module):
    """A pre-activation residual block without BatchNorm, its skip taken behind the first ReLU, `[B, C, H, W]`.

    Where the stride is 2 a 1x1 convolution halves the skip; channels that are new to it are 0, those that are gone are
    left out.
    """

    def __init__(self, before: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(before, before, 1, stride) if stride > 1 else nn.Identity()
        self.new = channels - before

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, smaller by its stride."""
        x = F.relu(x)
        skip = F.pad(self.skip(x), (0, 0, 0, 0, 0, self.new))
        return self.conv2(F.relu(self.conv1(x))) + skip


def _start(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
            nn.init.constant_(part.bias, FIRST_BIAS)  # type: ignore[arg-type]


def standardize(images: Tensor) -> Tensor:
    """Images `[B, C, H, W]` with mean 0 and deviation 1 each, over all its pixels; one of one color becomes 0."""
    centered = images - images.mean((1, 2, 3), keepdim=True)
    return centered / centered.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-3)


class Encoder(nn.Module):
    """Images `[B, 3, side, side]` to features in 0..1, `[B, 10]`; it standardizes the images itself."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.side, self.width = side, width
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            Block(width, 2 * width),
            Block(2 * width, 4 * width, 2),
            Block(4 * width, 8 * width, 2),
            nn.ReLU(),
        )
        self.linear = nn.Linear(8 * width * (side // STEP) ** 2, NUM_FEATURES, bias=False)
        _start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, float32 or wider: with 8 bits of mantissa those near 1 would be 1, without gradients."""
        logits = self.linear(torch.flatten(self.convolutions(standardize(x)), 1))
        return torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))


def encoder(side: str, /, width: Width = 16) -> dict[str, Any]:
    """UCC's encoder for images of that side, a multiple of 4: `{'backbone', 'dim'}`, dim = 10.

    Args:
        width: channels of the first convolution.

    Raises:
        ConfigError: a side that is no multiple of 4, or too large.
    """
    if not side.isdecimal() or int(side) % STEP or not 0 < int(side) <= MOST:
        raise ConfigError(f"backbone is 'ucc/{side}', but what follows ucc/ is the images' side, a multiple of 4")
    return {"backbone": Encoder(int(side), width), "dim": NUM_FEATURES}


def density(features: Tensor, sigma: float = SIGMA) -> Tensor:
    """The distribution of each feature over a bag: `[G, n, J]` in 0..1 to `[G, J, 11]`, each row with sum 1.

    h_jb = sum_i exp(-(b/10 - f_ij)² / (2 sigma²)), b = 0 … 10, normalized over b.
    """
    bins = torch.linspace(0, 1, NUM_BINS, dtype=features.dtype, device=features.device)
    exponents = -((features[..., None] - bins) ** 2) / (2 * sigma**2)
    # Sums and shares among logs: a feature far from every bin keeps its gradient.
    return torch.softmax(torch.logsumexp(exponents, dim=1), dim=-1)


class Counter(nn.Module):
    """From the features of bags `[G, n, J]` to the logits of how many classes each holds, `[G, most]`."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(NUM_FEATURES * NUM_BINS, 384), nn.ReLU(), nn.Linear(384, 192), nn.ReLU(), nn.Linear(192, most)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        return self.layers(density(features).flatten(1))


class Decoder(nn.Module):
    """From features `[B, 10]` to standardized images `[B, 3, side, side]`."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.shape = (8 * width, side // STEP, side // STEP)
        self.linear = nn.Linear(NUM_FEATURES, self.shape[0] * self.shape[1] ** 2)
        self.convolutions = nn.Sequential(
            Block(8 * width, 8 * width),
            nn.Upsample(scale_factor=2),
            Block(8 * width, 4 * width),
            nn.Upsample(scale_factor=2),
            Block(4 * width, 2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, 3, 3, padding=1),
        )
        _start(self)

    def forward(self, features: Tensor) -> Tensor:
        """Return the images."""
        return self.convolutions(self.linear(features).unflatten(1, self.shape))


class UCCModel(nn.Module):
    """Encoder, counter and decoder, for training; images `[B, 3, side, side]` of whole bags in a row."""

    def __init__(self, encoder: Encoder, bag_size: int, most: int) -> None:
        super().__init__()
        self.encoder, self.bag_size, self.most = encoder, bag_size, most
        self.counter, self.decoder = Counter(most), Decoder(encoder.side, encoder.width)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return logits `[B / bag_size, most]` and decoded images."""
        features = self.encoder(images)
        return [self.counter(features.unflatten(0, (-1, self.bag_size))), self.decoder(features)]
