"""The loss of BYOL (https://arxiv.org/abs/2006.07733), whose views predict each other."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class BYOLLoss(nn.Module):
    """Turn what is predicted from each view towards what the target network makes of the other.

    loss = mean over images and both directions of 2 - 2 cos(q, z'). Predictions that are exact give 0, orthogonal
    ones 2. No gradient flows into the targets.

    Shape:
        predictions, targets: [B, 2, D], both views of every image of the global batch, of any length.
        loss: a scalar, float32 (float64 for float64 predictions).

    Example:
        >>> predictions = torch.randn(8, 2, 16, requires_grad=True)
        >>> targets = torch.randn(8, 2, 16)
        >>> loss = BYOLLoss()(predictions, targets)
        >>> loss.backward()
    """

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of one batch."""
        predictions = predictions.to(torch.promote_types(predictions.dtype, torch.float32))
        cosines = functional.cosine_similarity(predictions, targets.detach().flip(1), dim=2)
        return (2 - 2 * cosines).mean()
