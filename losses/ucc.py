"""The loss of UCC (https://arxiv.org/abs/1906.07647): how many classes a bag holds, and what its images look like."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional


class UCCLoss(nn.Module):
    """Cross entropy of a bag's number of classes, and squared error of the decoded images.

    loss = (1 - share) · mean cross entropy + share · mean squared error; without a reconstruction the first term alone
    would let images lose all but what the count needs.

    Args:
        reconstruction: share of the squared error.

    Shape:
        logits: [G, M], a row a bag; counts: int64 [G], 0 for one class, M - 1 for M.
        decoded, images: [B, C, H, W], of the global batch.
        loss: a scalar, float32 (float64 for float64 inputs).

    Example:
        >>> logits, images = torch.zeros(8, 4, requires_grad=True), torch.ones(2, 3, 4, 4)
        >>> counts = torch.arange(8) % 4  # of 8 bags, from 0
        >>> loss = UCCLoss()(logits, counts, images, images)
        >>> loss.backward()
    """

    def __init__(self, reconstruction: Annotated[float, Field(ge=0, le=1)] = 0.5) -> None:
        super().__init__()
        self.reconstruction = reconstruction

    def forward(self, logits: Tensor, counts: Tensor, decoded: Tensor, images: Tensor) -> Tensor:
        """Return the loss of one batch."""
        dtype = torch.promote_types(logits.dtype, torch.float32)
        counting = functional.cross_entropy(logits.to(dtype), counts)
        error = functional.mse_loss(decoded.to(dtype), images.to(dtype))
        return (1 - self.reconstruction) * counting + self.reconstruction * error
