"""The networks of IIC (https://arxiv.org/abs/1807.06653): its own small one, edges for colors, and a second head."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.models import ClusteringModel
from system.sections import Width

GRAY = (0.299, 0.587, 0.114)
EDGES = (((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0)), ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0)))


class FourConvolutions(nn.Module):
    """Four 5x5 convolutions with BatchNorm and ReLU, pooling between them, on gray: [B, 3, H, W] to [B, 72 · width].

    The last map is 3x3 for images of 24 to 31 pixels, and brought to 3x3 for others.
    """

    SIDE = 3

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, channels = 1, width
        for number in range(4):
            layers += [nn.MaxPool2d(2)] if number else []
            layers += [nn.Conv2d(before, channels, 5, padding=2, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
            before, channels = channels, 2 * channels
        self.layers = nn.Sequential(*layers)
        self.dim = before * self.SIDE**2

    def forward(self, x: Tensor) -> Tensor:
        """Return features `[B, dim]`."""
        maps = self.layers(x.mean(1, keepdim=True))
        if maps.shape[-1] != self.SIDE or maps.shape[-2] != self.SIDE:  # whose gradient CUDA only has without order
            maps = F.adaptive_avg_pool2d(maps, self.SIDE)
        return torch.flatten(maps, 1)


def four_convolutions(width: Width = 64) -> dict[str, Any]:
    """IIC's network for MNIST: `{'backbone', 'dim'}`, dim = 72 · width.

    Args:
        width: channels of the first convolution; each later one has twice as many.
    """
    network = FourConvolutions(width)
    return {"backbone": network, "dim": network.dim}


class Sobel(nn.Module):
    """The horizontal and vertical edges of the gray image, `[B, 3, H, W]` to the same shape; the third channel is 0.

    What normalization did to the colors only scales them, as far as it is the same for all three.
    """

    gray: Tensor
    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gray", torch.tensor(GRAY)[:, None, None], persistent=False)
        self.register_buffer("edges", torch.tensor(EDGES)[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return dx, dy and zeros."""
        gray = (x * self.gray).sum(1, keepdim=True)
        return F.pad(F.conv2d(gray, self.edges, padding=1), (0, 0, 0, 0, 0, 1))


class TwoHeads(nn.Module):
    """A clustering model and, for training only, heads of more clusters on the same backbone.

    Images `[B, 3, H, W]` become a list of logits: those of the `num_over` heads of `over_clusters`, then the
    clustering model's own.
    """

    def __init__(self, clustering: ClusteringModel, over_clusters: int, num_over: int) -> None:
        super().__init__()
        self.clustering = clustering
        self.num_over = num_over
        self.over_head = nn.ModuleList([nn.Linear(clustering.backbone_dim, over_clusters) for _ in range(num_over)])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the logits of all heads."""
        features = self.clustering(x, forward_pass="backbone")
        return [*(head(features) for head in self.over_head), *self.clustering(features, forward_pass="head")]
