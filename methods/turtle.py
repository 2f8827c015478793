"""TURTLE (https://arxiv.org/abs/2406.07236): the labeling that linear classifiers learn most easily in every space."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from clustering.candidate import Candidate, Embedding, make_candidate
from clustering.pca import PCA, fit_pca
from losses.turtle import TURTLELoss, log_labels
from models.heads import TURTLEHead
from system.runtime import generator
from training.heads import train_heads

NUM_DIMS = 30  # components of every space that are trained on: in hundreds, 2,000 images fit any labeling linearly
START = 0.05  # of the weights: nearly even labels, which then part where the features do
SMALLEST_STD = 1e-6


def standardize(space: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return features [N, D] with mean 0 and variance 1 a dimension, and the mean and standard deviation [D]."""
    mean, std = space.mean(0), space.std(0, correction=0)
    std = torch.where(std > SMALLEST_STD, std, 1.0)  # a dimension that never changes stays 0
    return (space - mean) / std, mean, std


def fit_classifiers(points: Tensor, labels: Tensor, num_steps: int, lr: float) -> tuple[Tensor, Tensor]:
    """Train linear classifiers, from 0, by a few Adam steps on the cross entropy with soft labels.

    points [B, d], labels [H, B, K]; returns weight [H, d, K] and bias [H, 1, K]. The gradient is written out: softmax
    minus label, times the input.
    """
    num_heads, size, num_clusters = labels.shape
    inputs = torch.cat([points, points.new_ones(size, 1)], dim=1)
    flat = labels.transpose(0, 1).reshape(size, -1)
    weight = inputs.new_zeros(inputs.shape[1], num_heads * num_clusters)
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, num_steps + 1):
        logits = (inputs @ weight).view(size, num_heads, num_clusters)
        gradient = inputs.T @ (functional.softmax(logits, dim=2).view(size, -1) - flat) / size
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        denominator = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
        weight.addcdiv_(first, denominator, value=-lr / (1 - 0.9**step))
    heads = weight.view(-1, num_heads, num_clusters).permute(1, 0, 2)
    return heads[:, :-1], heads[:, -1:]


class _Layers:
    """The label layers of H heads on one space: directions of unit length, their lengths, and biases."""

    def __init__(
        self, num_heads: int, length: int, num_clusters: int, draws: torch.Generator, device: torch.device
    ) -> None:
        start = torch.randn(num_heads, length, num_clusters, generator=draws) / length**0.5 * START
        values = (start, start.norm(dim=1, keepdim=True), torch.zeros(num_heads, 1, num_clusters))
        self.parameters = [value.to(device).requires_grad_() for value in values]

    def logits(self, points: Tensor) -> Tensor:
        """Return [H, B, K] of points [B, d]."""
        direction, length, bias = self.parameters
        return points @ (functional.normalize(direction, dim=1) * length) + bias

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """Weight [d, K] and bias [K] of a head."""
        direction, length, bias = (parameter[number] for parameter in self.parameters)
        return functional.normalize(direction, dim=0) * length, bias[0]


def fit(
    embedding: Embedding,
    num_clusters: int,
    seed: int = 0,
    *,
    num_heads: int = 3,
    num_steps: int = 400,
    batch_size: int = 2048,
    num_inner_steps: int = 10,
    inner_lr: float = 0.03,
    lr: float = 0.003,
    entropy_weight: float = 10.0,
    name: str = "turtle",
) -> Candidate:
    """Search the labeling, from several starts side by side.

    Args:
        embedding: features; no neighbors are needed. Each dimension is standardized, as unit vectors would keep the
            loss at log K.
        num_clusters: K.
        seed: of all draws.
        num_heads: starts, side by side.
        num_steps: outer Adam steps; published 6,000.
        batch_size: images a step, drawn anew each time; published 10,000.
        num_inner_steps: Adam steps of fresh classifiers before every outer step.
        inner_lr: their rate; published 1e-3, on all dimensions instead of a few components.
        lr: of the outer steps; published 1e-3.
        entropy_weight: γ, which keeps every label in use.
        name: of the candidate.

    The loss of a head is the mean of its total over the last tenth of the steps.
    """
    started, (dims, first) = time.perf_counter(), embedding.place
    heads = [TURTLEHead(dims, num_clusters, first) for _ in range(num_heads)]
    spaces, means, stds = zip(*(standardize(space) for space in heads[0].spaces(embedding.features)), strict=True)
    pcas = [fit_pca(space, NUM_DIMS) for space in spaces]
    points = [pca.apply(space) for pca, space in zip(pcas, spaces, strict=True)]
    criterion, draws = TURTLELoss(entropy_weight), generator(seed, "turtle")
    layers = [_Layers(num_heads, space.shape[1], num_clusters, draws, space.device) for space in points]
    optimizer = torch.optim.Adam([parameter for layer in layers for parameter in layer.parameters], lr)

    def losses_at(step: int) -> Tensor:
        rows = torch.randperm(len(embedding.features), generator=draws)[:batch_size].to(points[0].device)
        batch = [space[rows] for space in points]
        labels = [layer.logits(x) for layer, x in zip(layers, batch, strict=True)]
        with torch.no_grad():
            tau = log_labels(labels).exp()
            fitted = [fit_classifiers(x, tau, num_inner_steps, inner_lr) for x in batch]
            classifiers = [x @ weight + bias for x, (weight, bias) in zip(batch, fitted, strict=True)]
        return criterion(labels, classifiers).total

    late = train_heads(optimizer, num_steps, losses_at)
    for number, head in enumerate(heads):
        _copy(head, [layer.layer(number) for layer in layers], pcas, torch.cat(means), torch.cat(stds))
    return make_candidate(name, heads, late, embedding.features, time.perf_counter() - started)


@torch.no_grad()
def _copy(
    head: TURTLEHead, layers: Sequence[tuple[Tensor, Tensor]], pcas: Sequence[PCA], mean: Tensor, std: Tensor
) -> None:
    """Write label layers trained on components into layers on standardized features."""
    head.mean.copy_(mean)
    head.std.copy_(std)
    for layer, pca, (weight, bias) in zip(head.layers, pcas, layers, strict=True):
        folded = pca.fold(weight.T, bias)
        layer.load_state_dict({"weight": folded[0], "bias": folded[1]})
