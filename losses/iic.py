"""The loss of IIC (https://arxiv.org/abs/1807.06653): the mutual information of two views' clusters."""

import torch
from torch import Tensor, nn
from torch.nn import functional

FLOOR = 2.2e-16  # of every probability, so that its logarithm stays finite


class IICLoss(nn.Module):
    """Minus the mutual information between the clusters of an image and of its transform.

    A = mean_i p(x_i) p(gx_i)ᵀ, P = (A + Aᵀ) / 2 with marginals P_c, everything floored at 2.2e-16;
    loss = - sum_cc' P_cc' (log P_cc' - log P_c - log P_c'). At best -log K: equal, certain, and evenly spread; 0 when
    one says nothing of the other. A batch's rows must be those of the global batch: the mean of local losses is
    another loss.

    Shape:
        logits, transformed_logits: [B, K], row i of both of one image.
        loss: a scalar, float32 (float64 for float64 logits).

    Raises:
        ValueError: logits of different shapes.

    Example:
        >>> model = nn.Linear(16, 10)  # features to logits of 10 clusters
        >>> plain, transformed = model(torch.rand(2, 8, 16))  # 8 images and a transform of each
        >>> loss = IICLoss()(plain, transformed)
        >>> loss.backward()
    """

    def forward(self, logits: Tensor, transformed_logits: Tensor) -> Tensor:
        """Return the loss of one batch."""
        if logits.ndim != 2 or logits.shape != transformed_logits.shape:
            raise ValueError(
                f"logits must be two times [B, K], not {list(logits.shape)} and {list(transformed_logits.shape)}"
            )
        dtype = torch.promote_types(logits.dtype, torch.float32)
        first = functional.softmax(logits, dim=1, dtype=dtype)
        second = functional.softmax(transformed_logits, dim=1, dtype=dtype)
        joint = first.T @ second / len(first)
        joint = (joint + joint.T) / 2
        marginal = joint.sum(1).clamp(min=FLOOR)
        joint = joint.clamp(min=FLOOR)
        return -(joint * (joint.log() - marginal.log()[:, None] - marginal.log()[None])).sum()
