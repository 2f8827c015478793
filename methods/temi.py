"""TEMI (https://arxiv.org/abs/2303.17896): MLP heads on fixed features, taught by their own moving average."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from clustering.candidate import Candidate, make_candidate
from clustering.pca import PCA, fit_pca
from losses.temi import TEMILoss
from models.heads import TEMIHead
from system.runtime import generator

NUM_DIMS = 50  # components that are trained on; the first layer is folded back onto the features


class _Heads:
    """Parameters of H heads of equal shape, computed side by side: batched matrix products on [H, B, ·]."""

    def __init__(self, num_heads: int, sizes: Sequence[int], draws: torch.Generator, device: torch.device) -> None:
        length, hidden, bottleneck, num_clusters = sizes
        shapes = [(length, hidden), (1, hidden), (hidden, bottleneck), (1, bottleneck), (bottleneck, num_clusters)]
        self.parameters = [
            torch.zeros(num_heads, *shape, device=device)
            if shape[0] == 1
            else (torch.randn(num_heads, *shape, generator=draws) / shape[0] ** 0.5).to(device)
            for shape in shapes
        ]

    def logits(self, points: Tensor, temperature: float) -> Tensor:
        """Return [H, B, K] of points [B, d]."""
        w1, b1, w2, b2, w3 = self.parameters
        hidden = functional.gelu(torch.matmul(points, w1) + b1)
        unit = functional.normalize(torch.baddbmm(b2, hidden, w2), dim=2)
        return torch.bmm(unit, functional.normalize(w3, dim=1)) / temperature


def fit(
    features: Tensor,
    num_clusters: int,
    seed: int = 0,
    neighbors: Tensor | None = None,
    *,
    dims: Sequence[int] | None = None,
    first: int = 0,
    num_heads: int = 3,
    num_steps: int = 600,
    batch_size: int = 256,
    lr: float = 3e-3,
    weight_decay: float = 1e-4,
    beta: float = 0.6,
    teacher_momentum: float = 0.99,
    hidden: int = 256,
    bottleneck: int = 128,
    name: str = "temi",
) -> Candidate:
    """Train TEMI heads; the teacher of every head is what comes back.

    Args:
        features: float32 [N, ΣD].
        num_clusters: K.
        seed: of all draws.
        neighbors: int64 [N, k + 1], the image itself in column 0, as `mine_neighbors` returns them.
        dims: the lengths of the spaces that are used, side by side (default: all columns, as one space).
        first: the column where they begin.
        num_heads: starts, side by side; published 16.
        num_steps: AdamW's, a tenth of them to warm up; published about 5,000. Small folders need steps, not epochs.
        batch_size: images a step; published 1,024.
        lr: AdamW's; published 4e-4 at that batch size.
        weight_decay: AdamW's.
        beta: 1 lets clusters be of unequal size.
        teacher_momentum: published .996, for many more steps.
        hidden: width of the MLP; published 512.
        bottleneck: its outputs; published 256.
        name: of the candidate.

    The loss of a head is the mean over the last tenth of the steps.
    """
    if neighbors is None:
        raise ValueError("TEMI needs neighbors")
    started = time.perf_counter()
    options = {"hidden": hidden, "bottleneck": bottleneck}
    heads = [TEMIHead(dims or [features.shape[1] - first], num_clusters, first, **options) for _ in range(num_heads)]
    unit = heads[0].unit(features)
    pca = fit_pca(unit, NUM_DIMS)
    scale = (len(pca.variances) / pca.variances.sum()).sqrt()  # the mean variance of a component becomes 1
    points = pca.apply(unit) * scale
    draws = generator(seed, "temi")
    sizes = (points.shape[1], hidden, bottleneck, num_clusters)
    student = _Heads(num_heads, sizes, draws, points.device)
    teacher = _Heads(num_heads, sizes, draws, points.device)
    teacher.parameters = [parameter.clone() for parameter in student.parameters]
    for parameter in student.parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.AdamW(student.parameters, lr, weight_decay=weight_decay)
    criterion = TEMILoss(num_clusters, num_heads, beta).to(points.device)
    neighbors, late = neighbors.to(points.device), torch.zeros(num_heads, device=points.device)
    warm_up = max(1, num_steps // 10)

    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / warm_up)
        rows = torch.randint(len(points), (batch_size,), generator=draws).to(points.device)
        columns = torch.randint(1, neighbors.shape[1], rows.shape, generator=draws).to(points.device)
        both = points[torch.cat([rows, neighbors[rows, columns]])]
        with torch.no_grad():
            t, t_neighbor = teacher.logits(both, heads[0].temperature).chunk(2, dim=1)
        s, s_neighbor = student.logits(both, heads[0].temperature).chunk(2, dim=1)
        loss = criterion(s, s_neighbor, t, t_neighbor)
        optimizer.zero_grad()
        (loss.total * num_heads).backward()
        if step < warm_up:
            student.parameters[-1].grad = None  # the last layer waits until the others have begun to move
        optimizer.step()
        torch._foreach_lerp_(teacher.parameters, [x.detach() for x in student.parameters], 1 - teacher_momentum)
        if step >= num_steps - warm_up:
            late += loss.heads / warm_up

    for number, head in enumerate(heads):
        _copy(head, [parameter[number] for parameter in teacher.parameters], pca, scale)
        head.to(features.device)
    return make_candidate(name, heads, late.tolist(), features, time.perf_counter() - started)


@torch.no_grad()
def _copy(head: TEMIHead, parameters: Sequence[Tensor], pca: PCA, scale: Tensor) -> None:
    """Write a head trained on scaled components into one on the features themselves."""
    w1, b1, w2, b2, w3 = parameters
    weight, bias = pca.fold(w1.T * scale, b1[0])
    values = {"0.weight": weight, "0.bias": bias, "2.weight": w2.T, "2.bias": b2[0]}
    head.mlp.load_state_dict(values)
    head.weight.copy_(w3.T)
