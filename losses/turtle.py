"""The loss of TURTLE (https://arxiv.org/abs/2406.07236, equations 6 to 8): labels that are learned easily."""

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

LOWEST_PROBABILITY = 1e-8


class TURTLETerms(NamedTuple):
    """The loss and what it is made of: total = cross_entropy - entropy_weight * entropy."""

    total: Tensor
    cross_entropy: Tensor
    entropy: Tensor


def log_labels(labels: Sequence[Tensor]) -> Tensor:
    """Return the log of the soft labels, the mean probability over the spaces, of logits `[..., B, K]` a space."""
    logs = [functional.log_softmax(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32)) for x in labels]
    return torch.logsumexp(torch.stack(logs), dim=0) - math.log(len(logs))


class TURTLELoss(nn.Module):
    """Change the labels so that classifiers which were just fitted to them are right, with every label in use.

    total = sum_s CE(classifier_s, tau) - entropy_weight * sum_s H(mean_i softmax(labels_s)), tau the mean probability
    of the label layers. The classifiers are constants: no gradient flows through how they were fitted (first order).

    Args:
        entropy_weight: how much the entropies count against the cross entropy.

    Shape:
        labels, classifiers: for each space logits [..., B, K]; leading dimensions are independent labelings.
        result: three tensors of the leading dimensions (scalars without), float32 (float64 for float64 logits).

    Raises:
        ValueError: not as many classifiers as label layers, or none.

    Example:
        >>> criterion = TURTLELoss()
        >>> labels, classifiers = torch.randn(2, 64, 10, requires_grad=True), torch.randn(2, 64, 10)
        >>> loss = criterion(list(labels), list(classifiers))
        >>> loss.total.backward()
    """

    def __init__(self, entropy_weight: Annotated[float, Field(ge=0)] = 10.0) -> None:
        super().__init__()
        self.entropy_weight = entropy_weight

    def forward(self, labels: Sequence[Tensor], classifiers: Sequence[Tensor]) -> TURTLETerms:
        """Return (total, cross_entropy, entropy) of one batch."""
        if len(labels) != len(classifiers) or not labels:
            raise ValueError(
                f"a classifier is needed for each of the label layers, not {len(classifiers)} for {len(labels)}"
            )
        tau = log_labels(labels).exp()
        cross_entropy, entropy = tau.new_zeros(tau.shape[:-2]), tau.new_zeros(tau.shape[:-2])
        for label, classifier in zip(labels, classifiers, strict=True):
            predicted = functional.log_softmax(classifier, dim=-1, dtype=tau.dtype)
            cross_entropy = cross_entropy - (tau * predicted).sum(-1).mean(-1)
            share = functional.softmax(label, dim=-1, dtype=tau.dtype).mean(-2).clamp(min=LOWEST_PROBABILITY)
            entropy = entropy - (share * share.log()).sum(-1)
        return TURTLETerms(cross_entropy - self.entropy_weight * entropy, cross_entropy, entropy)
