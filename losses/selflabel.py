"""The self-labeling loss of SCAN (https://arxiv.org/abs/2005.12320, section 2.3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConfidenceBasedCE(nn.Module):
    """Cross entropy of the strong view against the plain view's own prediction, where that one is confident.

    A sample is confident when the largest softmax probability of its plain view exceeds the threshold. With
    class balancing a cluster with n_c of n confident samples weighs n / n_c (absent clusters 1); the result
    is the weighted mean over the confident samples. Without any, it is a zero that keeps the graph. Nothing
    here waits for the device.

    Args:
        threshold: probability above which a prediction is taken as a label.
        apply_class_balancing: weigh clusters inversely to their confident samples.

    Shape:
        weak_logits, strong_logits: [B, C], of the global batch; no gradient flows into the weak ones.
        loss: a scalar, float32 (float64 for float64 logits).
    """

    def __init__(self, threshold: float, apply_class_balancing: bool = True) -> None:
        super().__init__()
        self.threshold = threshold
        self.apply_class_balancing = apply_class_balancing

    def forward(self, weak_logits: Tensor, strong_logits: Tensor) -> Tensor:
        """Return the loss of one batch."""
        confident, target = self._labels(weak_logits)
        strong = strong_logits.to(torch.promote_types(strong_logits.dtype, torch.float32))
        losses = functional.cross_entropy(strong, target, reduction="none")
        weights = confident.to(losses.dtype)
        if self.apply_class_balancing:
            counts = self.count(weak_logits).to(losses.dtype)
            balance = torch.where(counts > 0, counts.sum() / counts.clamp(min=1), 1.0)
            weights = weights * balance[target]
        total = weights.sum()
        return (weights * losses).sum() / torch.where(total > 0, total, 1.0)

    def confident(self, weak_logits: Tensor) -> Tensor:
        """Return which samples of logits [B, C] are confident, bool [B]."""
        return self._labels(weak_logits)[0]

    def count(self, weak_logits: Tensor) -> Tensor:
        """Return how many confident samples of logits [B, C] each cluster has, int64 [C], on their device."""
        confident, target = self._labels(weak_logits)
        counts = torch.zeros(weak_logits.shape[1], dtype=torch.int64, device=weak_logits.device)
        return counts.scatter_add_(0, target, confident.to(torch.int64))

    @torch.no_grad()
    def _labels(self, weak_logits: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(weak_logits.dtype, torch.float32)
        probability, target = functional.softmax(weak_logits, dim=1, dtype=dtype).max(dim=1)
        return probability > self.threshold, target
