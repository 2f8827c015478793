"""Residual networks for small images: one definition of resnet8, resnet18, resnet20 and resnet34, with three stems."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from system.sections import Width

Stem = Literal["cifar", "cifar_s2", "stl"]
STEMS: dict[str, dict[str, Any]] = {
    "cifar": {"stride": 1, "pool": False},  # 32 x 32: the first stage sees every pixel
    "cifar_s2": {"stride": 2, "pool": False},  # a quarter of the arithmetic
    "stl": {"stride": 1, "pool": True},  # 96 x 96: 49 x 49 in the first stage, 7 x 7 in the last
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (https://arxiv.org/abs/1512.03385, figure 2), `[B, C, H, W]`."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, smaller by its stride."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """Basic blocks in stages of doubling width; images `[B, 3, H, W]` become features `[B, dim]`.

    The modules' names and their order are those of published checkpoints: weights and optimizer states fit.
    """

    def __init__(self, num_blocks: Sequence[int], width: int, stem: str = "cifar"):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, STEMS[stem]["stride"], padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(2, stride=2, padding=1) if STEMS[stem]["pool"] else nn.Identity()
        self.num_stages = len(num_blocks)
        channels = width
        for stage, num in enumerate(num_blocks):
            blocks = []
            for block in range(num):
                in_channels, channels = channels, width * 2**stage
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(BasicBlock(in_channels, channels, stride))
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.dim = channels
        self._initialize()

    def _initialize(self) -> None:
        # He et al.'s initialization (https://arxiv.org/abs/1502.01852), as in torchvision's residual networks
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return features `[B, dim]` of normalized images `[B, 3, H, W]` of any size."""
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.num_stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        # With the STL stem and 96 x 96 images this is the published 7 x 7 average pool; other sizes work too.
        return torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)


def _describe(network: ResNet) -> dict[str, Any]:
    return {"backbone": network, "dim": network.dim}


def resnet8(width: Width = 16, stem: Stem = "cifar") -> dict[str, Any]:
    """He et al.'s smallest CIFAR network, one block a stage: `{'backbone', 'dim'}`, dim = 4 · width.

    Args:
        stem: what comes before the first stage.
        width: channels of the first stage.
    """
    return _describe(ResNet((1, 1, 1), width, stem))


def resnet18(width: Width = 64, stem: Stem = "cifar") -> dict[str, Any]:
    """ResNet-18 without early downsampling, for 32x32 images: `{'backbone', 'dim'}`, dim = 8 · width.

    Args:
        stem: what comes before the first stage.
        width: channels of the first stage.
    """
    return _describe(ResNet((2, 2, 2, 2), width, stem))


def resnet20(width: Width = 16, stem: Stem = "cifar") -> dict[str, Any]:
    """He et al.'s CIFAR network with three blocks a stage: `{'backbone', 'dim'}`, dim = 4 · width.

    Args:
        stem: what comes before the first stage.
        width: channels of the first stage.
    """
    return _describe(ResNet((3, 3, 3), width, stem))


def resnet34(width: Width = 64, stem: Stem = "cifar") -> dict[str, Any]:
    """ResNet-34 without early downsampling, for small images: `{'backbone', 'dim'}`, dim = 8 · width.

    Args:
        stem: what stands before the first stage.
        width: channels of the first stage.
    """
    return _describe(ResNet((3, 4, 6, 3), width, stem))
