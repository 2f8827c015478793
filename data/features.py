"""Features in the place of images: what a frozen backbone makes of views that never change is computed once."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.augment import Normalize, Strategy


class FeatureSet:
    """Features `[N, D]` of a data set, in memory or memory-mapped, gathered by index as images are."""

    def __init__(self, name: str, features: Tensor | np.ndarray) -> None:
        self.name = name
        self.images = features

    def __len__(self) -> int:
        return len(self.images)

    def load(self, indices: Tensor, device: torch.device | str) -> Tensor:
        """Rows of the features: `[B, D]` on the device."""
        if isinstance(self.images, Tensor):
            return self.images[indices.to(self.images.device)].to(device)
        return torch.from_numpy(self.images[indices.numpy()]).to(device)


class Unchanged(Strategy):
    """The view that is the thing itself; `size` counts for nothing."""

    def __init__(self) -> None:
        super().__init__(1, Normalize(mean=[0.0] * 3, std=[1.0] * 3))

    def run(self, images: Tensor, params: dict[str, Any]) -> Tensor:
        """Return what was given."""
        return images
