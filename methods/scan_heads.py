"""SCAN's linear heads (https://arxiv.org/abs/2005.12320) on fixed features: seconds instead of hours."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from clustering.candidate import Candidate, Embedding, make_candidate
from clustering.pca import fit_even_pca
from losses.scan import UNIFORM, SCANLoss
from models.heads import LinearHead
from system.runtime import generator
from training.heads import draw_neighbors, train_heads

NUM_DIMS = 256  # components that are trained on; linear heads lose nothing that matters, and are five times as fast


def fit(
    embedding: Embedding,
    num_clusters: int,
    seed: int = 0,
    *,
    num_heads: int = 5,
    num_steps: int = 400,
    batch_size: int = 1024,
    lr: float = 0.01,
    entropy_weight: float = 5.0,
    cluster_prior: str | Sequence[float] = UNIFORM,
    name: str = "scan",
) -> Candidate:
    """Train linear heads so that each image and its neighbors agree, every head from its own start.

    Args:
        embedding: features, and neighbors in them.
        num_clusters: K.
        seed: of all draws.
        num_heads: starts, side by side.
        num_steps: Adam's.
        batch_size: images a step, drawn anew each time.
        lr: Adam's, constant.
        entropy_weight: of the SCAN loss.
        cluster_prior: of the SCAN loss: how large clusters are expected to be.
        name: of the candidate.

    The loss of a head is its SCAN loss over all images and their neighbors.
    """
    started, (dims, first) = time.perf_counter(), embedding.place
    heads = [LinearHead(dims, num_clusters, first) for _ in range(num_heads)]
    own = heads[0].own(embedding.features)
    pca = fit_even_pca(own, NUM_DIMS)
    points = pca.apply(own)
    draws = generator(seed, "scan heads")
    start = torch.randn(num_heads, num_clusters, points.shape[1], generator=draws) / points.shape[1] ** 0.5
    weight = start.to(points.device).requires_grad_()
    bias = torch.zeros(num_heads, 1, num_clusters, device=points.device, requires_grad=True)
    criterion, neighbors = torch.vmap(SCANLoss(entropy_weight, cluster_prior)), embedding.near

    def compare(rows: Tensor, others: Tensor) -> Tensor:
        return criterion(*(points[some] @ weight.transpose(1, 2) + bias for some in (rows, others))).total

    def losses_at(step: int) -> Tensor:
        rows = torch.randperm(len(points), generator=draws)[:batch_size].to(points.device)
        return compare(rows, draw_neighbors(neighbors, rows, draws))

    train_heads(torch.optim.Adam([weight, bias], lr), num_steps, losses_at)
    with torch.no_grad():
        everything = torch.arange(len(points), device=points.device)
        losses = torch.stack([compare(everything, column) for column in neighbors[:, 1:6].unbind(1)]).mean(0).tolist()
        for head, *layer in zip(heads, weight, bias[:, 0], strict=True):
            head.load_state_dict(dict(zip(("weight", "bias"), pca.fold(*layer), strict=True)))
    return make_candidate(name, heads, losses, embedding.features, time.perf_counter() - started)
