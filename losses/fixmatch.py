"""The loss of FixMatch (https://arxiv.org/abs/2001.07685) on labels that are reliable, as SPICE trains with them.

SPICE (https://arxiv.org/abs/2103.09382) takes for labels the clusters of images whose neighbors agree.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from losses.selflabel import Labels, label_confident


class FixMatch(nn.Module):
    """Cross entropy of images with labels, and of strong views against what their plain views are confident of.

    loss = mean_i CE(labeled_i, target_i) + weight / U · sum_j [max p_j > threshold] CE(strong_j, argmax p_j), with
    p_j the softmax of the j-th of U plain views. Images without confidence count in U: early on the second term is
    small, and grows as confidence does. Nothing here waits for the device.

    Args:
        threshold: probability above which a plain view's prediction is taken as a label.
        weight: of the second term.

    Shape:
        weak_logits, strong_logits: [U, C], of the global batch; no gradient flows into the weak ones.
        labeled_logits, targets: [L, C] and int64 [L], of the global batch.
        loss: a scalar, float32 (float64 for float64 logits).

    Example:
        >>> model = nn.Linear(16, 10)  # features to logits of 10 clusters
        >>> weak, strong, labeled = model(torch.rand(3, 8, 16))  # two views of 8 images, and 8 others with labels
        >>> loss = FixMatch(threshold=0.1)(weak, strong, labeled, torch.arange(8))
        >>> loss.backward()
    """

    def __init__(self, threshold: float, weight: Annotated[float, Field(ge=0)] = 1.0) -> None:
        super().__init__()
        self.threshold = threshold
        self.weight = weight

    def forward(self, weak_logits: Tensor, strong_logits: Tensor, labeled_logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of one batch."""
        return self.loss(self.label(weak_logits), strong_logits, labeled_logits, targets)

    def label(self, weak_logits: Tensor) -> Labels:
        """Return what the plain views [U, C] say of themselves."""
        return label_confident(weak_logits, self.threshold)

    def loss(self, labels: Labels, strong_logits: Tensor, labeled_logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of strong views [U, C] against the labels of the plain ones, and of labeled ones [L, C]."""
        dtype = torch.promote_types(strong_logits.dtype, torch.float32)
        known = functional.cross_entropy(labeled_logits.to(dtype), targets)
        losses = functional.cross_entropy(strong_logits.to(dtype), labels.cluster, reduction="none")
        return known + self.weight * (labels.confident * losses).mean()
