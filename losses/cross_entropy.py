"""Cross entropy against known classes."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class CrossEntropy(nn.Module):
    """loss = -mean_i log softmax(logits_i)[target_i].

    Equal logits of K classes give log K.

    Shape:
        logits: [B, K], of the global batch.
        targets: int64 [B], from 0 to K - 1.
        loss: a scalar, float32 (float64 for float64 logits).

    Example:
        >>> logits = torch.randn(8, 10, requires_grad=True)
        >>> targets = torch.arange(8)
        >>> loss = CrossEntropy()(logits, targets)
        >>> loss.backward()
    """

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of one batch."""
        return functional.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)
