"""SCAN's linear heads (https://arxiv.org/abs/2005.12320) on fixed features: seconds instead of hours."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from clustering.candidate import Candidate, make_candidate
from clustering.pca import fit_pca
from losses.scan import SCANLoss
from models.heads import LinearHead
from system.runtime import generator

NUM_DIMS = 256  # components that are trained on; linear heads lose nothing that matters, and are five times as fast


def fit(
    features: Tensor,
    num_clusters: int,
    seed: int = 0,
    neighbors: Tensor | None = None,
    *,
    dims: Sequence[int] | None = None,
    first: int = 0,
    num_heads: int = 5,
    num_steps: int = 400,
    batch_size: int = 1024,
    lr: float = 0.01,
    entropy_weight: float = 5.0,
    name: str = "scan",
) -> Candidate:
    """Train linear heads so that each image and its neighbors agree, every head from its own start.

    Args:
        features: float32 [N, ΣD].
        num_clusters: K.
        seed: of all draws.
        neighbors: int64 [N, k + 1], the image itself in column 0, as `mine_neighbors` returns them.
        dims: the lengths of the spaces that are used, side by side (default: all columns, as one space).
        first: the column where they begin.
        num_heads: starts, side by side.
        num_steps: Adam's.
        batch_size: images a step, drawn anew each time.
        lr: Adam's, constant.
        entropy_weight: of the SCAN loss.
        name: of the candidate.

    The loss of a head is its SCAN loss over all images and their neighbors.
    """
    if neighbors is None:
        raise ValueError("SCAN heads need neighbors")
    started = time.perf_counter()
    heads = [LinearHead(dims or [features.shape[1] - first], num_clusters, first) for _ in range(num_heads)]
    own = torch.cat(heads[0].spaces(features), dim=1)
    pca = fit_pca(own, NUM_DIMS)
    scale = (len(pca.variances) / pca.variances.sum()).sqrt()  # the mean variance of a component becomes 1
    points = pca.apply(own) * scale
    draws = generator(seed, "scan heads")
    shape = (num_heads, num_clusters, points.shape[1])
    weight = (torch.randn(shape, generator=draws) / points.shape[1] ** 0.5).to(points.device).requires_grad_()
    bias = torch.zeros(num_heads, 1, num_clusters, device=points.device, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr)
    criterion = torch.vmap(SCANLoss(entropy_weight))
    neighbors = neighbors.to(points.device)

    def logits(rows: Tensor) -> Tensor:
        return points[rows] @ weight.transpose(1, 2) + bias

    for _ in range(num_steps):
        rows = torch.randperm(len(points), generator=draws)[:batch_size].to(points.device)
        columns = torch.randint(1, neighbors.shape[1], rows.shape, generator=draws).to(points.device)
        loss = criterion(logits(rows), logits(neighbors[rows, columns])).total
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()

    with torch.no_grad():
        everything = torch.arange(len(points), device=points.device)
        found = [criterion(logits(everything), logits(column)).total for column in neighbors[:, 1:6].unbind(1)]
        losses = torch.stack(found).mean(0).tolist()
        for head, own_weight, own_bias in zip(heads, weight * scale, bias[:, 0], strict=True):
            folded = pca.fold(own_weight, own_bias)
            head.weight.copy_(folded[0])
            head.bias.copy_(folded[1])
            head.to(features.device)
    return make_candidate(name, heads, losses, features, time.perf_counter() - started)
