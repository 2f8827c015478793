"""Optimizers by name, and the one step that may be skipped without waiting for the device.

The keyword parameters of a function of `OPTIMIZERS` are the `optimizer_kwargs` that a config may give.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from system.sections import Fraction, PositiveRate, Rate, clash
from training.muon import Muon

Betas = Annotated[Sequence[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
Parameters = Sequence[nn.Parameter] | Sequence[dict[str, Any]]
"""Parameters, or groups of them: `params`, and `rate_factor` that the learning rate is multiplied with."""


def group_by_rate(named: Mapping[str, nn.Parameter], factors: Mapping[str, float] | None = None) -> Parameters:
    """Parameters by their names, in groups of those whose names begin alike, with the `rate_factor` of the beginning.

    Where several fit, the longest counts; what begins otherwise has the factor 1. Without factors there are no groups.
    """
    if not factors:
        return list(named.values())
    factors = {"": 1.0, **factors}
    members: dict[str, list[nn.Parameter]] = {start: [] for start in factors}
    for name, parameter in named.items():
        members[max((start for start in factors if name.startswith(start)), key=len)].append(parameter)
    return [{"params": members[start], "rate_factor": factor} for start, factor in factors.items()]


def _is_fused(parameters: Parameters) -> bool:
    """Whether one kernel takes the step; on Apple's GPUs it does not know of steps that are skipped."""
    first = parameters[0]
    return (first["params"][0] if isinstance(first, dict) else first).device.type != "mps"


def _nesterov(options: Any) -> str | None:
    return "nesterov: true needs a momentum above 0" if options.nesterov and not options.momentum else None


@clash(_nesterov)
def sgd(
    parameters: Parameters, lr: Rate, momentum: Fraction = 0.0, nesterov: bool = False, weight_decay: Rate = 0.0
) -> torch.optim.Optimizer:
    """Stochastic gradient descent.

    Args:
        lr: learning rate at the start.
        momentum: share of the last step that the next one keeps.
        nesterov: Nesterov's form, which needs momentum.
        weight_decay: times the weights, added to the gradient.
    """
    optimizer = torch.optim.SGD(parameters, lr, momentum, 0, weight_decay, nesterov, fused=_is_fused(parameters))
    if momentum:  # otherwise made at the first step, and left without a value where that is skipped
        for parameter in [parameter for group in optimizer.param_groups for parameter in group["params"]]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def adam(
    parameters: Parameters, lr: Rate, weight_decay: Rate = 0.0, betas: Betas = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """Adam, its weight decay a part of the gradient.

    Args:
        lr: learning rate at the start.
        weight_decay: times the weights, added to the gradient.
        betas: decay of the averages of gradient and squared gradient.
    """
    fused = _is_fused(parameters)
    return torch.optim.Adam(parameters, lr, (betas[0], betas[1]), weight_decay=weight_decay, fused=fused)


def adamw(
    parameters: Parameters, lr: Rate, weight_decay: Rate = 0.0, betas: Betas = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """Adam with weight decay apart from the gradient.

    Args:
        lr: learning rate at the start.
        weight_decay: share of the weights that is taken off, times the learning rate.
        betas: decay of the averages of gradient and squared gradient.
    """
    fused = _is_fused(parameters)
    return torch.optim.AdamW(parameters, lr, (betas[0], betas[1]), weight_decay=weight_decay, fused=fused)


def muon(
    parameters: Parameters, lr: Rate, momentum: Fraction = 0.95, vector_factor: PositiveRate = 5.0
) -> torch.optim.Optimizer:
    """Momentum whose step has, for every matrix and kernel, all directions alike; for networks trained from scratch.

    Before each step a matrix of m outputs is brought to the length √m.

    Args:
        lr: learning rate at the start, of matrices as a share of their length.
        momentum: share of the last step that the next one keeps.
        vector_factor: the learning rate of biases and of normalization is this many times as high.
    """
    given: Any = parameters if isinstance(parameters[0], dict) else [{"params": parameters}]
    groups: list[dict[str, Any]] = []
    for group in given:
        for is_vectors in (False, True):
            members = [parameter for parameter in group["params"] if (parameter.ndim < 2) == is_vectors]
            factor = group.get("rate_factor", 1.0) * (vector_factor if is_vectors else 1.0)
            groups.append({"params": members, "lr": lr * factor, "rate_factor": factor, "is_vectors": is_vectors})
    return Muon([group for group in groups if group["params"]], lr, momentum)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "muon": muon,
}


def take_step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, skip: Tensor | None = None) -> None:
    """One step along the gradients; where `skip` (a boolean on the device) is true, weights and state stay as they are.

    Only fp16, whose `scaler` is enabled, and Apple's GPUs wait for the device to know.
    """
    if skip is None:
        scaler.step(optimizer)
    elif scaler.is_enabled() or any(group.get("fused") is False for group in optimizer.param_groups):
        # The scaler needs the fused optimizers' flag for itself, and others have none.
        if skip.item():
            return  # `update` without a step is an error
        scaler.step(optimizer)
    else:
        optimizer.grad_scale, optimizer.found_inf = None, skip.to(torch.float32)  # type: ignore[attr-defined]
        optimizer.step()
    scaler.update()
