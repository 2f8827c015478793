"""A run that is only tried: three steps are timed, and nothing is written."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from system.console import say
from system.runtime import Runtime, describe
from training.checkpoint import num_bytes
from training.comparison import Keys
from training.parts import TrainedParts
from training.run import Run
from training.schedule import rate_of

NUM_TIMED = 3
NUM_TRIED = 64  # images


class TrialOver(Exception):
    """Ends the training that a trial runs."""


class Trial(Run):
    """Goes through a stage's own training for a few steps, says what all of it would take, and raises TrialOver."""

    def __init__(self, config: dict[str, Any], runtime: Runtime, stage: str, folder: Path, keys: Keys) -> None:
        super().__init__(config, runtime, stage, folder, keys)
        self.num_bytes = 0
        """Of a checkpoint, once there was a step."""

    def prepare(self, model: nn.Module, optimizer: Any, loader: Any, **parts: Any) -> Any:
        """As a run does, but from no checkpoint, and without compiling, which would take longer than the steps."""
        self.parts = TrainedParts(model, optimizer, self.config.get("average_decay"), **parts)
        return lambda images, **kwargs: self.runtime.forward(model, images, self.runtime.training, **kwargs)

    def note(self, **facts: Any) -> None:
        """Nothing is recorded."""

    def epochs(self) -> Iterator[int]:
        """Yield the first epoch."""
        yield 0

    def steps(self, loader: Any) -> Iterator[Any]:
        """Yield a few batches, and say what they mean for the whole run."""
        times = []
        for batch, _ in zip(loader.epoch(0), range(NUM_TIMED), strict=False):
            started = time.monotonic()
            self.parts.set_rate(rate_of(self.config, self.epoch, 0.0))
            yield batch
            for total in self.totals.sums.values():
                total.item()  # waits for the device
            times.append(time.monotonic() - started)
        self._tell(min(times), len(loader))
        raise TrialOver

    def only_tried(self, words: str) -> None:
        """Say what the run starts from, and raise TrialOver."""
        say(words)
        raise TrialOver

    def try_features(self, module: nn.Module, num_images: int, side: int) -> None:
        """Time the features of made-up images `[B, 3, side, side]`, tell what all take, and raise TrialOver."""
        module = self.runtime.place(module)
        images = torch.randn(NUM_TRIED, 3, side, side, device=self.runtime.device)
        times = []
        for _ in range(NUM_TIMED):
            started = time.monotonic()
            module(images).sum().item()  # waits for the device
            times.append(time.monotonic() - started)
        seconds = min(times) * num_images / NUM_TRIED
        say(f"device: {describe(self.runtime.device)}; about {seconds / 60:.1f} minutes for {num_images:,} images")
        raise TrialOver

    def _tell(self, seconds: float, num_steps: int) -> None:
        parameters = sum(parameter.numel() for parameter in self.parts.network.parameters())
        self.num_bytes = num_bytes(self.parts.state_dict())
        precision = str(self.runtime.training).removeprefix("torch.")
        say(f"device: {describe(self.runtime.device)}, precision {precision}")
        say(
            f"model: {parameters / 1e6:.2f} M parameters; a checkpoint takes {self.num_bytes / 2**20:.1f} MiB, two "
            "are kept"
        )
        minutes = seconds * num_steps * self.num_epochs / 60
        say(f"about {minutes:.1f} minutes: {self.num_epochs} epochs of {num_steps} steps of {seconds:.3f} s")
