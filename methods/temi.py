"""TEMI (https://arxiv.org/abs/2303.17896): MLP heads on fixed features, taught by their own moving average."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from clustering.candidate import Candidate, Embedding, make_candidate
from clustering.pca import EvenPCA, fit_even_pca
from losses.temi import TEMILoss
from models.heads import TEMIHead
from system.runtime import generator
from training.heads import draw_neighbors, train_heads

NUM_DIMS = 50  # components that are trained on; the first layer is folded back onto the features


class _Heads:
    """Parameters of H heads of equal shape, computed side by side: batched matrix products on [H, B, ·]."""

    def __init__(
        self, num_heads: int, sizes: Sequence[int], temperature: float, draws: torch.Generator, device: torch.device
    ) -> None:
        length, hidden, bottleneck, num_clusters = sizes
        self.temperature = temperature
        shapes = [(length, hidden), (1, hidden), (hidden, bottleneck), (1, bottleneck), (bottleneck, num_clusters)]
        self.parameters = [
            torch.zeros(num_heads, *shape, device=device)
            if shape[0] == 1
            else (torch.randn(num_heads, *shape, generator=draws) / shape[0] ** 0.5).to(device)
            for shape in shapes
        ]

    def logits(self, points: Tensor) -> Tensor:
        """Return [H, B, K] of points [B, d]."""
        w1, b1, w2, b2, w3 = self.parameters
        hidden = functional.gelu(torch.matmul(points, w1) + b1)
        unit = functional.normalize(torch.baddbmm(b2, hidden, w2), dim=2)
        return torch.bmm(unit, functional.normalize(w3, dim=1)) / self.temperature

    def follow(self, others: "_Heads", momentum: float) -> None:
        """Move a little towards other heads' parameters."""
        torch._foreach_lerp_(self.parameters, [x.detach() for x in others.parameters], 1 - momentum)


def fit(
    embedding: Embedding,
    num_clusters: int,
    seed: int = 0,
    *,
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
        embedding: features, and neighbors in them.
        num_clusters: K.
        seed: of all draws.
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
    started, (dims, first) = time.perf_counter(), embedding.place
    options = {"hidden": hidden, "bottleneck": bottleneck}
    heads = [TEMIHead(dims, num_clusters, first, **options) for _ in range(num_heads)]
    unit = heads[0].unit(embedding.features)
    pca = fit_even_pca(unit, NUM_DIMS)
    points, draws = pca.apply(unit), generator(seed, "temi")
    sizes = (points.shape[1], hidden, bottleneck, num_clusters)
    student, teacher = (_Heads(num_heads, sizes, heads[0].temperature, draws, points.device) for _ in range(2))
    criterion, neighbors = TEMILoss(num_clusters, num_heads, beta).to(points.device), embedding.near

    def losses_of_batch() -> Tensor:
        rows = torch.randint(len(points), (batch_size,), generator=draws).to(points.device)
        both = points[torch.cat([rows, draw_neighbors(neighbors, rows, draws)])]
        with torch.no_grad():
            taught = teacher.logits(both)
        return criterion(*student.logits(both).chunk(2, dim=1), *taught.chunk(2, dim=1)).heads

    late = _teach(student, teacher, losses_of_batch, num_steps, lr, weight_decay, teacher_momentum)
    for number, head in enumerate(heads):
        _copy(head, [parameter[number] for parameter in teacher.parameters], pca)
    return make_candidate(name, heads, late, embedding.features, time.perf_counter() - started)


def _teach(
    student: _Heads,
    teacher: _Heads,
    losses: Callable[[], Tensor],
    num_steps: int,
    lr: float,
    weight_decay: float,
    momentum: float,
) -> list[float]:
    """Train the student, whom the teacher follows from the student's own start; returns the late losses."""
    teacher.follow(student, momentum=0)
    for parameter in student.parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.AdamW(student.parameters, lr, weight_decay=weight_decay)
    optimizer.register_step_post_hook(lambda *_: teacher.follow(student, momentum))
    warm_up = max(1, num_steps // 10)

    def losses_at(step: int) -> Tensor:
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / warm_up)
        student.parameters[-1].requires_grad_(step >= warm_up)  # the last layer waits until the others begin to move
        return losses()

    return train_heads(optimizer, num_steps, losses_at)


@torch.no_grad()
def _copy(head: TEMIHead, parameters: Sequence[Tensor], pca: EvenPCA) -> None:
    """Write a head trained on components into one on the features themselves."""
    w1, b1, w2, b2, w3 = parameters
    weight, bias = pca.fold(w1.T, b1[0])
    values = {"0.weight": weight, "0.bias": bias, "2.weight": w2.T, "2.bias": b2[0]}
    head.mlp.load_state_dict(values)
    head.weight.copy_(w3.T)
