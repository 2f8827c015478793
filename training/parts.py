"""What a run trains: a network, its optimizer, and what else a checkpoint holds of them."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from training.batchnorm import synchronize_batchnorm
from training.checkpoint import check_optimizer
from training.ema import early_momentum, follow


class TrainedParts:
    """A network, its optimizer, and further objects with `state_dict` and `load_state_dict`.

    With `average_decay`, a running average of the network's weights is one of these.
    """

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, average_decay: float | None, **others: Any
    ) -> None:
        self.network, self.optimizer, self.others = network, optimizer, others
        self.average_decay = average_decay
        if average_decay is not None:
            self.others["average"] = copy.deepcopy(network).requires_grad_(False)

    @property
    def model(self) -> nn.Module:
        """What to evaluate and to save: the running average of the trained network, or else that network itself."""
        return self.others.get("average", self.network)

    @property
    def rate(self) -> float:
        """The learning rate of the first group of parameters."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def weights(self) -> list[Tensor]:
        """What the optimizer moves."""
        return [parameter.detach() for group in self.optimizer.param_groups for parameter in group["params"]]

    def set_rate(self, rate: float) -> None:
        """Set the learning rate; a group of parameters may have a factor of its own."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("rate_factor", 1.0)

    def move_average(self, num_steps: int) -> None:
        """Have the running average, where there is one, follow the network after its `num_steps`-th step."""
        if self.average_decay is not None:
            follow(self.model, self.network, early_momentum(self.average_decay, num_steps), statistics=True)

    def synchronize(self) -> None:
        """Have BatchNorm count over all ranks from here on."""
        self.network = synchronize_batchnorm(self.network)

    def state_dict(self) -> dict[str, Any]:
        """The state of every part by its name in a checkpoint."""
        return {name: part.state_dict() for name, part in self._named().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the parts of a checkpoint; raises ValueError, RuntimeError or KeyError where they do not fit."""
        check_optimizer(self.optimizer, state["optimizer"])
        for name, part in self._named().items():
            part.load_state_dict(state[name])
        if not self.optimizer.defaults.get("fused", True):  # the checkpoint may be of a device where it is
            for group in self.optimizer.param_groups:
                group["fused"] = False

    def _named(self) -> dict[str, Any]:
        return {"model": self.network, "optimizer": self.optimizer, **self.others}
