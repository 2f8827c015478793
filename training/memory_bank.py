"""A vector for every image of a data set, which follows what the network makes of it."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class MemoryBank:
    """Unit vectors `[N, D]`, v_i ← normalize(m·v_i + (1 - m)·f_i) for the images of each batch.

    At first every coordinate is uniform in ±1/√(D/3), which makes a norm of about 1 (https://arxiv.org/abs/1805.01978).
    It is state: part of every checkpoint, the same on every rank.
    """

    def __init__(self, num_images: int, num_dims: int, momentum: float, random: torch.Generator) -> None:
        span = (num_dims / 3) ** -0.5
        self.vectors = span * (2 * torch.rand(num_images, num_dims, generator=random) - 1)
        self.momentum = momentum
        self.scale: Tensor | None = None
        """What noise-contrastive estimation divides by, once a first batch has set it."""

    def to(self, device: torch.device) -> "MemoryBank":
        """Move the vectors to a device."""
        self.vectors = self.vectors.to(device)
        return self

    @torch.no_grad()
    def update(self, indices: Tensor, features: Tensor) -> None:
        """Move the vectors of images `indices [B]`, all different, towards their `features [B, D]`."""
        moved = self.momentum * self.vectors[indices] + (1 - self.momentum) * features
        self.vectors[indices] = functional.normalize(moved, dim=1)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"vectors": self.vectors} | ({} if self.scale is None else {"scale": self.scale})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what a checkpoint holds."""
        self.vectors.copy_(state["vectors"])
        self.scale = state["scale"].to(self.vectors.device) if "scale" in state else None
