"""The SCAN loss (https://arxiv.org/abs/2005.12320, equation 2): agree with neighbors, use all clusters."""

from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

LOWEST_LOG = -100.0  # as in binary cross entropy
LOWEST_PROBABILITY = 1e-8


class SCANTerms(NamedTuple):
    """The loss and what it is made of: total = consistency - entropy_weight * entropy."""

    total: Tensor
    consistency: Tensor
    entropy: Tensor


def entropy(probabilities: Tensor) -> Tensor:
    """Return -sum_c q_c log q_c of a distribution [C] in nats, q clamped at 1e-8."""
    q = probabilities.clamp(min=LOWEST_PROBABILITY)
    return -(q * q.log()).sum()


class SCANLoss(nn.Module):
    """Pull the predictions of neighbors together while the mean prediction stays spread over the clusters.

    consistency = mean_i -log(p_i·p_k), the dot product clipped to 1 and the log to at least -100; entropy is
    that of the mean anchor probability. The total is usually negative: at best -entropy_weight * log(C).

    Args:
        entropy_weight: how much the entropy counts against the consistency.

    Shape:
        anchor_logits, neighbor_logits: [B, C], of the global batch.
        result: three scalars, float32 (float64 for float64 logits).

    Example:
        >>> model = nn.Linear(16, 10)  # features to logits of 10 clusters
        >>> anchors, neighbors = model(torch.rand(2, 8, 16))  # 8 images and one neighbor of each
        >>> total, consistency, entropy = SCANLoss(entropy_weight=5.0)(anchors, neighbors)
        >>> total.backward()
    """

    def __init__(self, entropy_weight: Annotated[float, Field(ge=0)] = 2.0) -> None:
        super().__init__()
        self.entropy_weight = entropy_weight

    def forward(self, anchor_logits: Tensor, neighbor_logits: Tensor) -> SCANTerms:
        """Return (total, consistency, entropy) of one batch."""
        dtype = torch.promote_types(anchor_logits.dtype, torch.float32)
        anchors = functional.log_softmax(anchor_logits, dim=1, dtype=dtype)
        neighbors = functional.log_softmax(neighbor_logits, dim=1, dtype=dtype)
        # The log of the dot product, taken among logs: probabilities that underflow keep their gradient.
        agreement = torch.logsumexp(anchors + neighbors, dim=1).clamp(min=LOWEST_LOG, max=0.0)
        consistency = -agreement.mean()
        spread = entropy(anchors.exp().mean(dim=0))
        return SCANTerms(consistency - self.entropy_weight * spread, consistency, spread)
