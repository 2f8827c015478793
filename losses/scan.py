"""The SCAN loss (https://arxiv.org/abs/2005.12320, equation 2): agree with neighbors, use all clusters.

A cluster prior says how large clusters are expected to be: `uniform`, `power:a` with the r-th largest one's share in
proportion to r^-a, or a list of shares.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, PlainValidator, WithJsonSchema
from torch import Tensor, nn
from torch.nn import functional

LOWEST_LOG = -100.0  # as in binary cross entropy
LOWEST_PROBABILITY = 1e-8
UNIFORM, POWER = "uniform", "power:"
STEEPEST = 1.0  # of a power: from log K / mean log rank on, above 1, a collapse costs less than clusters of equal size
SUM_TOLERANCE = 1e-3


def _check_prior(value: Any) -> str | list[float]:
    if value == UNIFORM:
        return UNIFORM
    if isinstance(value, str) and value.startswith(POWER):
        try:
            power = float(value.removeprefix(POWER))
        except ValueError:
            power = -1.0
        if 0 <= power <= STEEPEST:
            return value
        raise ValueError(f"the power should be a number from 0 to {STEEPEST:g}, as in power:0.5")
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not all(isinstance(share, int | float) and not isinstance(share, bool) and share > 0 for share in value):
            raise ValueError("shares should be numbers above 0")
        if not abs(sum(value) - 1) <= SUM_TOLERANCE:
            raise ValueError(f"shares should sum to 1, and these sum to {sum(value):.4g}")
        return [float(share) for share in value]
    raise ValueError("it should be uniform, power:A, or a list of shares")


ClusterPrior = Annotated[
    str | Sequence[float],
    PlainValidator(_check_prior),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": [UNIFORM, POWER + "A"]},
                {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}},
            ]
        }
    ),
]
"""How large clusters are expected to be."""


def expected_sizes(prior: str | Sequence[float], sizes: Tensor) -> Tensor:
    """Return how large each of K clusters is expected to be, in mean cluster sizes: 1 for all where all are equal.

    The largest of the sizes [K] (floats; probabilities or counts) gets the largest share, and so on; where two are the
    same the first one counts as larger. The result [K] has no gradient. Raises ValueError for another number of shares.
    """
    num_clusters = len(sizes)
    ranks = torch.arange(1, num_clusters + 1, dtype=sizes.dtype, device=sizes.device)
    if prior == UNIFORM:
        return torch.ones_like(ranks)
    if isinstance(prior, str):
        shares = ranks ** -float(prior.removeprefix(POWER))
    else:
        if len(prior) != num_clusters:
            raise ValueError(f"a prior of {len(prior)} shares does not fit {num_clusters} clusters")
        shares = torch.tensor(sorted(prior, reverse=True), dtype=sizes.dtype, device=sizes.device)
    place = sizes.detach().argsort(descending=True, stable=True).argsort()
    return (shares * (num_clusters / shares.sum()))[place]


class SCANTerms(NamedTuple):
    """The loss and what it is made of: total = consistency - entropy_weight * entropy."""

    total: Tensor
    consistency: Tensor
    entropy: Tensor


def entropy(probabilities: Tensor, prior: str | Sequence[float] = UNIFORM) -> Tensor:
    """Return -sum_c q_c log q_c of a distribution [C] in nats, q clamped at 1e-8.

    With a prior π it is -sum_r q_r log(q_r / (C π_r)), q_r by falling size: log C less the divergence of q from π, so
    that it is largest, log C, where q is as expected.
    """
    q = probabilities.clamp(min=LOWEST_PROBABILITY)
    return -(q * (q.log() - expected_sizes(prior, q).log())).sum()


class SCANLoss(nn.Module):
    """Pull the predictions of neighbors together while the mean prediction stays spread over the clusters.

    consistency = mean_i -log(p_i·p_k), the dot product clipped to 1 and the log to at least -100; entropy is
    that of the mean anchor probability. The total is usually negative: at best -entropy_weight * log(C).

    Args:
        entropy_weight: how much the entropy counts against the consistency.
        cluster_prior: how large clusters are expected to be, see `entropy`.

    Shape:
        anchor_logits, neighbor_logits: [B, C], of the global batch.
        result: three scalars, float32 (float64 for float64 logits).

    Example:
        >>> model = nn.Linear(16, 10)  # features to logits of 10 clusters
        >>> anchors, neighbors = model(torch.rand(2, 8, 16))  # 8 images and one neighbor of each
        >>> total, consistency, entropy = SCANLoss(entropy_weight=5.0)(anchors, neighbors)
        >>> total.backward()
    """

    def __init__(
        self, entropy_weight: Annotated[float, Field(ge=0)] = 2.0, cluster_prior: ClusterPrior = UNIFORM
    ) -> None:
        super().__init__()
        self.entropy_weight = entropy_weight
        self.cluster_prior = cluster_prior

    def forward(self, anchor_logits: Tensor, neighbor_logits: Tensor) -> SCANTerms:
        """Return (total, consistency, entropy) of one batch."""
        dtype = torch.promote_types(anchor_logits.dtype, torch.float32)
        anchors = functional.log_softmax(anchor_logits, dim=1, dtype=dtype)
        neighbors = functional.log_softmax(neighbor_logits, dim=1, dtype=dtype)
        # The log of the dot product, taken among logs: probabilities that underflow keep their gradient.
        agreement = torch.logsumexp(anchors + neighbors, dim=1).clamp(min=LOWEST_LOG, max=0.0)
        consistency = -agreement.mean()
        spread = entropy(anchors.exp().mean(dim=0), self.cluster_prior)
        return SCANTerms(consistency - self.entropy_weight * spread, consistency, spread)
