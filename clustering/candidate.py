"""A candidate: one method's clusterings of fixed features, from several draws, none of which used a label."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.heads import Head

BLOCK = 8192  # images at once


@dataclass(frozen=True)
class Candidate:
    """Heads of one method on the same features, which differ by their draws alone.

    `clusters` is int64 [H, N]; `losses` holds the method's own loss of every head, lower is better, and compares
    nothing else; `best` is the head that counts.
    """

    name: str
    heads: list[Head]
    clusters: Tensor
    losses: list[float]
    best: int
    seconds: float = 0.0

    @property
    def head(self) -> Head:
        """The head that counts."""
        return self.heads[self.best]

    def with_best(self, best: int) -> "Candidate":
        """Return a copy in which another head counts."""
        return replace(self, best=best)


def make_candidate(
    name: str, heads: Sequence[Head], losses: Sequence[float], features: Tensor, seconds: float = 0.0
) -> Candidate:
    """Return the candidate of heads, placed where their features [N, ΣD] are; the one of the lowest loss counts."""
    clusters = torch.stack([predict(head.to(features.device), features).argmax(1).cpu() for head in heads])
    return Candidate(name, list(heads), clusters, list(losses), losses.index(min(losses)), seconds)


@torch.inference_mode()
def predict(head: Head, features: Tensor) -> Tensor:
    """Return the cluster probabilities float32 [N, K] of features [N, ΣD]."""
    return torch.cat([torch.softmax(head(block), dim=1) for block in features.split(BLOCK)])
