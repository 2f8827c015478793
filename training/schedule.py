"""The learning rate as a pure function of the epoch.

The further parameters of a function of `SCHEDULES`, and `warmup_epochs`, are the `scheduler_kwargs` of a config.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from system.sections import Count, Fraction, Rate


def constant(base: float, epoch: int, epochs: int) -> float:
    """The base rate."""
    return base


def cosine(base: float, epoch: int, epochs: int, lr_decay_rate: Fraction = 0.1) -> float:
    """Half a cosine from `base` down to `base · lr_decay_rate³`, one value an epoch (SCAN, published recipe).

    Args:
        lr_decay_rate: the cube root of what the last rate is of the first.
    """
    lowest = base * lr_decay_rate**3
    return lowest + (base - lowest) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def step(
    base: float, epoch: int, epochs: int, lr_decay_epochs: Sequence[Count], lr_decay_rate: Fraction = 0.1
) -> float:
    """`base · lr_decay_rate^n` where n milestones are before this epoch.

    Args:
        lr_decay_epochs: the milestones, counted from 0.
        lr_decay_rate: what the rate is multiplied with after each.
    """
    return base * lr_decay_rate ** sum(milestone < epoch for milestone in lr_decay_epochs)


SCHEDULES: dict[str, Callable[..., float]] = {"constant": constant, "cosine": cosine, "step": step}


def rate_of(config: Mapping[str, Any], epoch: int, progress: float) -> float:
    """The learning rate that a config gives some way, 0 to 1, into an epoch."""
    base, kwargs = config["optimizer_kwargs"]["lr"], config["scheduler_kwargs"]
    return learning_rate(config["scheduler"], base, epoch, config["epochs"], progress, **kwargs)


def learning_rate(
    scheduler: str,
    base: float,
    epoch: int,
    epochs: int,
    progress: float = 0.0,
    warmup_epochs: Rate = 0,
    **kwargs,
) -> float:
    """The rate at `epoch` (from 0) of `epochs`, `progress` in [0, 1) through it.

    Args:
        warmup_epochs: over which the rate rises linearly, step by step; no more than a tenth of the run.
    """
    rate = SCHEDULES[scheduler](base, epoch, epochs, **kwargs)
    warmup = min(warmup_epochs, epochs / 10)
    return rate * min(1.0, (epoch + progress) / warmup) if warmup else rate
