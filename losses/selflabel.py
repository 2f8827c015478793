"""The self-labeling loss of SCAN (https://arxiv.org/abs/2005.12320, section 2.3)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from losses.scan import UNIFORM, ClusterPrior, expected_sizes


class Labels(NamedTuple):
    """What plain views say of themselves: cluster int64 [B], its probability [B], and whether that is confident [B].

    `counts` int64 [C] are the confident samples of each cluster.
    """

    cluster: Tensor
    probability: Tensor
    confident: Tensor
    counts: Tensor


@torch.no_grad()
def label_confident(weak_logits: Tensor, threshold: float) -> Labels:
    """Return what plain views [B, C] say of themselves, confident where a probability exceeds the threshold."""
    dtype = torch.promote_types(weak_logits.dtype, torch.float32)
    probability, cluster = functional.softmax(weak_logits, dim=1, dtype=dtype).max(dim=1)
    confident = probability > threshold
    counts = torch.zeros(weak_logits.shape[1], dtype=torch.int64, device=weak_logits.device)
    return Labels(cluster, probability, confident, counts.scatter_add_(0, cluster, confident.to(torch.int64)))


class ConfidenceBasedCE(nn.Module):
    """Cross entropy of the strong view against the plain view's own prediction, where that one is confident.

    A sample is confident when the largest softmax probability of its plain view exceeds the threshold. With
    class balancing a cluster with n_c of n confident samples weighs n / n_c (absent clusters 1), with a prior
    that times the size it expects, in mean sizes; the result is the weighted mean over the confident samples.
    Without any, it is a zero that keeps the graph. Nothing here waits for the device.

    Args:
        threshold: probability above which a prediction is taken as a label.
        apply_class_balancing: weigh clusters inversely to their confident samples.
        cluster_prior: how large clusters are expected to be.

    Shape:
        weak_logits, strong_logits: [B, C], of the global batch; no gradient flows into the weak ones.
        loss: a scalar, float32 (float64 for float64 logits).

    Example:
        >>> model = nn.Linear(16, 10)  # features to logits of 10 clusters
        >>> weak_logits, strong_logits = model(torch.rand(2, 8, 16))  # a plain and a strong view of 8 images
        >>> loss = ConfidenceBasedCE(threshold=0.1)(weak_logits, strong_logits)
        >>> loss.backward()
    """

    def __init__(
        self, threshold: float, apply_class_balancing: bool = True, cluster_prior: ClusterPrior = UNIFORM
    ) -> None:
        super().__init__()
        self.threshold = threshold
        self.apply_class_balancing = apply_class_balancing
        self.cluster_prior = cluster_prior

    def forward(self, weak_logits: Tensor, strong_logits: Tensor) -> Tensor:
        """Return the loss of one batch."""
        return self.loss(self.label(weak_logits), strong_logits)

    def label(self, weak_logits: Tensor) -> Labels:
        """Return what the plain views [B, C] say of themselves."""
        return label_confident(weak_logits, self.threshold)

    def loss(self, labels: Labels, strong_logits: Tensor) -> Tensor:
        """Return the loss of the strong views [B, C] against the labels of the plain ones."""
        strong = strong_logits.to(torch.promote_types(strong_logits.dtype, torch.float32))
        losses = functional.cross_entropy(strong, labels.cluster, reduction="none")
        weights = labels.confident.to(losses.dtype)
        if self.apply_class_balancing:
            counts = labels.counts.to(losses.dtype)
            wanted = counts.sum() * expected_sizes(self.cluster_prior, counts)
            balance = torch.where(counts > 0, wanted / counts.clamp(min=1), 1.0)
            weights = weights * balance[labels.cluster]
        total = weights.sum()
        return (weights * losses).sum() / torch.where(total > 0, total, 1.0)
