"""Training of several small heads side by side, each from its own start, on features that are all in memory."""

from collections.abc import Callable

import torch
from torch import Tensor


def train_heads(optimizer: torch.optim.Optimizer, num_steps: int, losses: Callable[[int], Tensor]) -> list[float]:
    """Step down the sum of `losses(step)` [H], one for every head; returns H means over the last tenth of the steps."""
    num_late, late = max(1, num_steps // 10), torch.zeros(())
    for step in range(num_steps):
        found = losses(step)
        optimizer.zero_grad()
        found.sum().backward()
        optimizer.step()
        if step >= num_steps - num_late:
            late = late.to(found.device) + found.detach() / num_late
    return late.tolist()


def draw_neighbors(neighbors: Tensor, rows: Tensor, draws: torch.Generator) -> Tensor:
    """A random neighbor [B] of images [B], by neighbors int64 [N, k + 1] with the image itself in column 0."""
    columns = torch.randint(1, neighbors.shape[1], rows.shape, generator=draws)
    return neighbors[rows, columns.to(rows.device)]
