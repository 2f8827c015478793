"""A candidate: one method's clusterings of fixed features, from several draws, none of which used a label."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.heads import Head

BLOCK = 8192  # images at once


@dataclass(frozen=True)
class Embedding:
    """Where images are clustered: features float32 [N, ΣD], of one space or of several side by side.

    `neighbors` int64 [N, k + 1] has the image itself in column 0, as `mine_neighbors` returns them; methods that need
    none take None. `dims` are the lengths of the spaces that are used, by default all columns as one, and `first` is
    the column where they begin.
    """

    features: Tensor
    neighbors: Tensor | None = None
    dims: Sequence[int] = ()
    first: int = 0

    @property
    def place(self) -> tuple[list[int], int]:
        """The lengths of the spaces, and the column where they begin: what a head that reads them is told."""
        return list(self.dims) or [self.features.shape[1] - self.first], self.first

    @property
    def near(self) -> Tensor:
        """The neighbors, where the features are; raises ValueError without any."""
        if self.neighbors is None:
            raise ValueError("this method needs neighbors")
        return self.neighbors.to(self.features.device)


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
