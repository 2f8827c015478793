"""What belongs in no cluster: images whose features are far from most of those that were clustered."""

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCK = 4096  # images at once


class LeaveOut(nn.Module):
    """Which features are left out: those farther than `farthest` from their k-th neighbor among reference features.

    Distances are 1 - cosine. `reference` [M, D] are unit vectors in half precision; an image that is among them is its
    own first neighbor. All of it is kept with a model, so that new images are judged as those that were clustered.

    Shape:
        features: [B, D]. Result: bool [B].
    """

    reference: Tensor
    num_neighbors: Tensor
    farthest: Tensor

    def __init__(self, num_images: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("reference", torch.zeros(num_images, dim, dtype=torch.float16))
        self.register_buffer("num_neighbors", torch.tensor(1))
        self.register_buffer("farthest", torch.tensor(2.0))

    @torch.no_grad()
    def distances(self, features: Tensor) -> Tensor:
        """Return the distance of features [B, D] to their k-th neighbor, float32 [B]."""
        reference = functional.normalize(self.reference.float(), dim=1).T
        k = int(self.num_neighbors)
        blocks = [functional.normalize(block.float(), dim=1) @ reference for block in features.split(BLOCK)]
        return torch.cat([1 - cosines.topk(k, dim=1).values[:, -1] for cosines in blocks])

    def forward(self, features: Tensor) -> Tensor:
        """Return which features are left out, bool [B]."""
        return self.distances(features) > self.farthest
