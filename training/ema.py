"""Exponential moving averages of weights: written back to the model after every step, or kept as another network."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """s = α·s + (1 - α)·w after each step, and w = s. BatchNorm statistics are the model's own and stay untouched."""

    def __init__(self, parameters: Iterable[nn.Parameter], alpha: float) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self.alpha = alpha
        self.shadow: list[Tensor] = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Move the shadow towards the parameters and write it back; without effect where the step was skipped."""
        torch._foreach_lerp_(self.shadow, self.parameters, 1 - self.alpha)
        torch._foreach_copy_(self.parameters, self.shadow)

    def state_dict(self) -> dict[str, Any]:
        """The shadow, for a checkpoint."""
        return {"shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the shadow of a checkpoint."""
        torch._foreach_copy_(self.shadow, [value.to(self.shadow[0].device) for value in state["shadow"]])


def rising_momentum(start: float, step: int, num_steps: int) -> float:
    """From `start` at step 0 along half a cosine to 1 at `num_steps`."""
    return 1 - (1 - start) * (math.cos(math.pi * step / num_steps) + 1) / 2


def early_momentum(highest: float, num_steps: int) -> float:
    """(1 + n) / (10 + n) after n steps, at most `highest`: an average of the last tenth, until that is long enough."""
    return min(highest, (1 + num_steps) / (10 + num_steps))


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, momentum: float, statistics: bool = False) -> None:
    """Move a target: m·target + (1 - m)·online, for all its parameters; the online network may have more.

    BatchNorm statistics are each network's own, unless the target, which then sees no images itself, is to follow in
    these too.
    """
    weights: dict[str, Tensor] = dict(online.named_parameters())
    own: dict[str, Tensor] = dict(target.named_parameters())
    if statistics:
        weights |= dict(online.named_buffers())
        for name, buffer in target.named_buffers():
            if buffer.is_floating_point():
                own[name] = buffer
            else:  # a count of batches
                buffer.copy_(weights[name])
    torch._foreach_lerp_(list(own.values()), [weights[name] for name in own], 1 - momentum)
