"""Heads trained side by side: a descent whose every loss is known, and neighbors that are never the image itself."""

import pytest
import torch

from training.heads import draw_neighbors, train_heads


@pytest.mark.parametrize(("num_steps", "num_late"), [(20, 2), (3, 1)])
def test_losses_are_means_over_the_last_tenth_of_a_known_descent(num_steps, num_late):
    """Gradient steps of 1/2 on w²/2 halve w, so that its loss at step s is w²/2 · 4^-s: each head by itself."""
    weights = torch.tensor([2.0, -6.0], requires_grad=True)
    steps = []

    def losses(step):
        steps.append(step)
        return weights.square() / 2

    found = train_heads(torch.optim.SGD([weights], lr=0.5), num_steps, losses)
    assert steps == list(range(num_steps))
    assert weights.tolist() == [2.0 / 2**num_steps, -6.0 / 2**num_steps]
    late = sum(4.0**-step for step in range(num_steps - num_late, num_steps)) / num_late
    assert found == pytest.approx([2 * late, 18 * late])


def test_a_neighbor_is_drawn_from_all_columns_but_the_first():
    neighbors = torch.arange(10)[:, None] + 10 * torch.arange(4)  # row i holds i, 10 + i, 20 + i, 30 + i
    rows = torch.arange(10).repeat(50)
    found = draw_neighbors(neighbors, rows, torch.Generator().manual_seed(0))
    assert torch.equal(found % 10, rows)
    assert (found // 10).unique().tolist() == [1, 2, 3]
