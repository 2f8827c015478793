"""What a run adds up over an epoch: on the device, without waiting for it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Totals:
    """Sums, counts and maxima by name, in float32; part of every checkpoint, so that a resumed epoch ends the same."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        """Of values whose means over the epoch's steps are its metrics."""
        self.counts: dict[str, Tensor] = {}
        """Numbers, or one for each cluster, that are metrics as they are."""
        self.maxima: dict[str, Tensor] = {}
        """The largest value of the epoch, for `read` alone."""

    def add(self, **values: Tensor) -> None:
        """Add to the sums."""
        _join(self.sums, values, torch.add)

    def count(self, **values: Tensor) -> None:
        """Add to the counts."""
        _join(self.counts, values, torch.add)

    def maximum(self, **values: Tensor) -> None:
        """Keep what is larger than all before."""
        _join(self.maxima, values, torch.maximum)

    def read(self, name: str) -> float:
        """A count or maximum so far, 0 where there was none; waits for the device."""
        value = (self.counts | self.maxima).get(name)
        return 0.0 if value is None else float(value.sum())

    def metrics(self, num_steps: int) -> dict[str, Any]:
        """Means over the epoch's steps, of which those that were skipped hold no loss, and counts."""
        counts: dict[str, Any] = {name: value.long().tolist() for name, value in self.counts.items()}
        taken = max(1, num_steps - counts.get("skipped_batches", 0))
        return {name: round(value.item() / taken, 6) for name, value in self.sums.items()} | counts

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """All totals, for a checkpoint."""
        return {"sums": self.sums, "counts": self.counts, "maxima": self.maxima}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]], device: torch.device) -> None:
        """Take the totals of a checkpoint."""
        for name, totals in self.state_dict().items():
            totals |= {key: value.to(device) for key, value in state[name].items()}


def _join(totals: dict[str, Tensor], values: dict[str, Tensor], join: Callable[[Tensor, Tensor], Tensor]) -> None:
    for name, value in values.items():
        value = value.detach().to(torch.float32)
        totals[name] = join(totals[name], value) if name in totals else value.clone()


def in_words(line: dict[str, Any]) -> str:
    """Return an epoch's metrics as words; those of single clusters are left to the file."""

    def show(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)

    return "  ".join(f"{k} {show(v)}" for k, v in line.items() if k != "epoch" and not isinstance(v, list | dict))
