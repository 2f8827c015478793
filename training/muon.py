"""Muon: momentum whose step has, for every matrix, all directions alike (Jordan et al. 2024).

https://kellerjordan.github.io/posts/muon/
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of a quintic that five times over brings all of [0.01, 1] to about 1; published."""
NUM_TIMES = 5
SMALLEST = 1e-7
"""Norm below which a matrix is no direction but what rounding left; published."""


def orthogonalize(matrix: Tensor) -> Tensor:
    """Bring all singular values of a matrix [m, n], but those near 0, to about 1, between .68 and 1.2.

    The quintic a x + b x³ + c x⁵ of the singular values x, five times over, after a division by the Frobenius norm. All
    factors are polynomials in X Xᵀ and commute, so that only products of the shorter side's size are repeated.
    """
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=SMALLEST)
    gram = wide @ wide.T
    factor = one = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for _ in range(NUM_TIMES):
        polynomial = a * one + b * gram + c * gram @ gram
        factor = polynomial @ factor
        gram = polynomial @ gram @ polynomial
    found = factor @ wide
    return found if matrix.shape[0] <= matrix.shape[1] else found.T


class Muon(torch.optim.Optimizer):
    """Orthogonalized Nesterov momentum for matrices, plain momentum for vectors; a kernel is a matrix of its outputs.

    A matrix [m, n] is brought to the Frobenius norm √m before each step: where normalization follows, any other means
    the same, and the learning rate is then a share of it. Weights that were trained otherwise do not survive that.
    Groups that hold vectors have `is_vectors`.
    """

    found_inf: Tensor | None = None
    """Where it is 1, the next step leaves weights and state as they are, without waiting for the device to know."""

    def __init__(self, parameters: Sequence[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "is_vectors": False})
        for parameter, _ in self._all():  # otherwise made at the first step, which may be skipped
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def _all(self) -> list[tuple[nn.Parameter, dict[str, Any]]]:
        return [(parameter, group) for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients."""
        for parameter, group in self._all():
            if parameter.grad is None:
                continue
            buffer = self.state[parameter]["momentum_buffer"]
            moved = group["momentum"] * buffer + parameter.grad
            if group["is_vectors"]:
                value = parameter - group["lr"] * moved
            else:
                value = _step_of_matrix(parameter, parameter.grad + group["momentum"] * moved, group["lr"])
            if self.found_inf is not None:
                skip = self.found_inf > 0
                value, moved = torch.where(skip, parameter, value), torch.where(skip, buffer, moved)
            parameter.copy_(value)
            buffer.copy_(moved)


def _step_of_matrix(parameter: Tensor, direction: Tensor, lr: float) -> Tensor:
    num_outputs = len(parameter)
    flat = orthogonalize(direction.flatten(1))
    scale = max(1.0, num_outputs / flat.shape[1]) ** 0.5
    length = num_outputs**0.5 / parameter.norm().clamp(min=1e-30)
    return parameter * length - lr * scale * flat.reshape(parameter.shape)
