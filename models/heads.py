"""Heads that turn backbone features into cluster logits by themselves; the signature of each is its schema.

Several backbones side by side give one row of features, their dimensions one after the other: `dims` holds the
length of each, `first` is the column where the head's own features begin.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from system.errors import ConfigError


def unit_spaces(features: Tensor, dims: Sequence[int]) -> Tensor:
    """Return features [N, D] with each of the spaces that stand side by side L2-normalized: all weigh the same.

    The cosine similarity of two such rows is the mean of those in the spaces, where none is zero.
    """
    return torch.cat([functional.normalize(space, dim=1) for space in features.split(list(dims), dim=1)], dim=1)


class Head(nn.Module):
    """What all heads share: which columns of the features they read, and the keywords that build them anew."""

    def __init__(self, dims: Sequence[int], num_clusters: int, first: int = 0, **options: Any) -> None:
        super().__init__()
        if num_clusters < 1 or not dims or min(dims) < 1 or first < 0:
            raise ConfigError(
                f"a head needs a cluster and features; these are {num_clusters} and {list(dims)} from column {first}"
            )
        self.dims, self.num_clusters, self.first = [int(dim) for dim in dims], num_clusters, first
        self.options: dict[str, Any] = {"dims": self.dims, "num_clusters": num_clusters, "first": first, **options}

    def own(self, features: Tensor) -> Tensor:
        """Return the columns `[B, D]` that are read, in float32 at least."""
        own = features[:, self.first : self.first + sum(self.dims)]
        return own.to(torch.promote_types(own.dtype, torch.float32))

    def spaces(self, features: Tensor) -> list[Tensor]:
        """Return the features `[B, D_s]` of each space, in float32 at least."""
        return list(self.own(features).split(self.dims, dim=1))

    def unit(self, features: Tensor) -> Tensor:
        """Return unit vectors `[B, D]`: every space L2-normalized, so that each weighs the same."""
        return unit_spaces(self.own(features), self.dims) / math.sqrt(len(self.dims))


class LinearHead(Head):
    """SCAN's head (https://arxiv.org/abs/2005.12320): one linear layer, with the keys of `nn.Linear`.

    Shape:
        features: [B, D]. logits: [B, K].
    """

    def __init__(self, dims: Sequence[int], num_clusters: int, first: int = 0) -> None:
        super().__init__(dims, num_clusters, first)
        linear = nn.Linear(sum(dims), num_clusters)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, features: Tensor) -> Tensor:
        """Return logits `[B, K]`."""
        return functional.linear(self.own(features), self.weight, self.bias)


class KMeansHead(Head):
    """K-means as a network: L2-normalize, then the closed form of minus the squared distance to each centroid.

    logits = (W z + b) / temperature. The largest logit is K-means' own cluster; the probabilities are uncalibrated.

    Shape:
        features: [B, D]. logits: [B, K].
    """

    weight: Tensor
    bias: Tensor
    temperature: Tensor

    def __init__(self, dims: Sequence[int], num_clusters: int, first: int = 0) -> None:
        super().__init__(dims, num_clusters, first)
        self.register_buffer("weight", torch.zeros(num_clusters, sum(dims)))
        self.register_buffer("bias", torch.zeros(num_clusters))
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits `[B, K]`."""
        return functional.linear(self.unit(features), self.weight, self.bias) / self.temperature


class TEMIHead(Head):
    """A head of TEMI (https://arxiv.org/abs/2303.17896): an MLP to a unit vector, then cosines at a temperature.

    Linear(D, hidden), GELU, Linear(hidden, bottleneck), L2-normalize, and a linear layer without bias whose rows have
    length 1. Features are L2-normalized first, so that one learning rate serves every backbone.

    Shape:
        features: [B, D]. logits: [B, K], within ±1/temperature.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_clusters: int,
        first: int = 0,
        hidden: int = 512,
        bottleneck: int = 256,
        temperature: float = 0.1,
    ) -> None:
        super().__init__(dims, num_clusters, first, hidden=hidden, bottleneck=bottleneck, temperature=temperature)
        self.temperature = temperature
        self.mlp = nn.Sequential(nn.Linear(sum(dims), hidden), nn.GELU(), nn.Linear(hidden, bottleneck))
        self.weight = nn.Parameter(functional.normalize(torch.randn(num_clusters, bottleneck), dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits `[B, K]`."""
        hidden = functional.normalize(self.mlp(self.unit(features)), dim=1)
        return functional.linear(hidden, functional.normalize(self.weight, dim=1)) / self.temperature


class TURTLEHead(Head):
    """The labeling of TURTLE (https://arxiv.org/abs/2406.07236): the mean probability of a linear layer a space.

    Features are standardized a dimension, never L2-normalized; logits are the log of the mean probability.

    Shape:
        features: [B, ΣD_s]. logits: [B, K].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dims: Sequence[int], num_clusters: int, first: int = 0) -> None:
        super().__init__(dims, num_clusters, first)
        self.register_buffer("mean", torch.zeros(sum(dims)))
        self.register_buffer("std", torch.ones(sum(dims)))
        self.layers = nn.ModuleList([nn.Linear(dim, num_clusters) for dim in dims])

    def forward(self, features: Tensor) -> Tensor:
        """Return logits `[B, K]`."""
        whole = (self.own(features) - self.mean) / self.std
        logs = [
            functional.log_softmax(layer(space), dim=1)
            for layer, space in zip(self.layers, whole.split(self.dims, dim=1), strict=True)
        ]
        return torch.logsumexp(torch.stack(logs), dim=0) - math.log(len(logs))


class VoteHead(Head):
    """The log of the mean probability of several heads, after their clusters were matched to one another.

    `heads` holds `{'head': name, **keywords}` a member; cluster c of the vote is cluster `order[m, c]` of member m.

    Shape:
        features: [B, D]. logits: [B, K].
    """

    order: Tensor

    def __init__(
        self, dims: Sequence[int], num_clusters: int, first: int = 0, heads: Sequence[dict[str, Any]] = ()
    ) -> None:
        super().__init__(dims, num_clusters, first, heads=[dict(head) for head in heads])
        if not heads:
            raise ConfigError("a vote needs at least one head")
        self.members = nn.ModuleList([build_head(**head) for head in heads])
        self.register_buffer("order", torch.arange(num_clusters).repeat(len(heads), 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits `[B, K]`."""
        logs = [
            functional.log_softmax(member(features), dim=1)[:, order]
            for member, order in zip(self.members, self.order, strict=True)
        ]
        return torch.logsumexp(torch.stack(logs), dim=0) - math.log(len(logs))


HEADS: dict[str, Callable[..., Head]] = {
    "linear": LinearHead,
    "kmeans": KMeansHead,
    "temi": TEMIHead,
    "turtle": TURTLEHead,
    "vote": VoteHead,
}


def build_head(head: str, **options: Any) -> Head:
    """Build an untrained head by name; its keywords are those of its class.

    Raises ConfigError for a name that does not exist.
    """
    if head not in HEADS:
        raise ConfigError(f"head '{head}' does not exist; choose one of {', '.join(HEADS)}")
    return HEADS[head](**options)


def describe_head(head: Head) -> dict[str, Any]:
    """Return what `build_head` builds this head from: plain values, for a config."""
    name = next(name for name, kind in HEADS.items() if kind is type(head))
    return {"head": name, **head.options}
