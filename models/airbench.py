"""The network of Jordan's fast training on CIFAR-10 (https://arxiv.org/abs/2404.00498), without his whitening.

What it is good at is arithmetic: most of it happens at half and a quarter of the resolution and in many channels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from system.sections import Width


def patch_basis() -> Tensor:
    """An orthonormal basis of patches of 2 × 2 pixels, and its negatives: [24, 3, 2, 2].

    Luminance and two opponent colors times the four patterns of Haar. Those directions of natural images vary by
    themselves, so that normalization after them is nearly the whitening of the paper, without images to learn it from.
    """
    colors = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
    patterns = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    colors = colors / colors.norm(dim=1, keepdim=True)
    basis = torch.einsum("ac,iy,jx->aijcyx", colors, patterns, patterns).reshape(12, 3, 2, 2)
    return torch.cat([basis, -basis])


class Block(nn.Module):
    """Two convolutions, the first of which is followed by a pool: `[B, C, H, W]` to `[B, channels, H/2, W/2]`."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        x = F.gelu(self.bn1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.bn2(self.conv2(x)))


class Airbench(nn.Module):
    """A fixed basis of patches, normalized, then three blocks; images `[B, 3, H, W]` become features `[B, dim]`."""

    basis: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("basis", patch_basis())
        self.bn = nn.BatchNorm2d(len(self.basis))
        self.layer1 = Block(len(self.basis), width)
        self.layer2 = Block(width, 4 * width)
        self.layer3 = Block(4 * width, 4 * width)
        self.dim = 4 * width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return features `[B, dim]` of normalized images `[B, 3, H, W]` of 8 pixels or more a side."""
        x = F.gelu(self.bn(F.conv2d(F.pad(x, (0, 1, 0, 1)), self.basis)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


def airbench(width: Width = 64) -> dict[str, Any]:
    """Jordan's network for 32x32 images, many channels at low resolution: `{'backbone', 'dim'}`, dim = 4 · width.

    Args:
        width: channels of the first block.
    """
    network = Airbench(width)
    return {"backbone": network, "dim": network.dim}
