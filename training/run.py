"""A run: its keys of randomness, its steps, its metrics, its checkpoints.

The loop is in the stage script. `Run` does the rest: it continues an interrupted run at the very step,
counts on the device without waiting for it, and stops cleanly.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from system import distributed
from system.console import progress, say
from system.errors import TimeOverError, UserError
from system.runtime import Runtime, seed_everything
from training import checkpoint
from training.board import Board, find_writer
from training.comparison import Keys, to_plain
from training.folder import RunFolder
from training.optimizers import take_step
from training.parts import TrainedParts
from training.profiling import StepProfiler
from training.record import RunRecord
from training.schedule import rate_of
from training.stopping import Stopping
from training.totals import Totals, in_words


class Run:
    """One stage's run; made by `Run.start`. `result` is set when the run was finished before.

    `config` holds what the schema of a config does, and `keys` is what is known of it. `stage` is what the run is
    called, `folder` where its files are.
    """

    def __init__(self, config: dict[str, Any], runtime: Runtime, stage: str, folder: Path, keys: Keys) -> None:
        self.config, self.runtime, self.stage, self.folder = config, runtime, stage, folder
        self.key = (config["seed"], config["setup"])
        self.values: dict[str, Any] = {}
        """Numbers and words that a stage remembers between epochs; part of every checkpoint."""
        self.metrics: list[dict[str, Any]] = []
        """The lines of metrics.jsonl so far."""
        self.result: dict[str, Any] | None = None
        self.epoch = self.step_in_epoch = self.num_steps = 0
        self.totals = Totals()
        """What this epoch adds up, on the device."""
        self.parts: TrainedParts
        """What is trained; there from `prepare` on."""
        self._files = RunFolder(folder, to_plain(config), keys)
        self._profiler: StepProfiler | None = None
        self._board = Board(self.folder, wanted=False)
        self._record = RunRecord(folder, stage, runtime)
        self._again = "the command without overwrite=true" if config["overwrite"] else "the same command"
        self._stopping = Stopping(config.get("minutes"), config["checkpoint_every"]["minutes"], self._goodbye)

    @classmethod
    def start(cls, config: dict[str, Any], runtime: Runtime, stage: str, folder: Path, keys: Keys) -> "Run":
        """Open or continue the run that a config describes.

        Raises ConfigError when the folder holds a run with another config, UserError when another process holds it.
        """
        if config["tensorboard"]:
            find_writer()
        run = cls(config, runtime, stage, folder, keys)
        run._stopping.catch_signals()
        run.result = distributed.on_main(run._open)
        runtime.training = distributed.from_main(runtime.training)  # one precision, whichever CPUs the ranks have
        seed_everything(*run.key, "weights")
        return run

    @property
    def seconds(self) -> float:
        """Wall-clock seconds that this run has taken, over all its continuations."""
        return self._record.seconds

    @property
    def num_epochs(self) -> int:
        """How many epochs the config asks for."""
        return self.config["epochs"]

    def _open(self) -> dict[str, Any] | None:
        result = self._files.open()
        if result is None:
            self._record.open(keeps_precision=self.config["precision"] == "auto")
        return result

    def note(self, **facts: Any) -> None:
        """Record what is known only when the run is under way, and a later command needs, see `RunRecord.note`."""
        if distributed.is_main():
            self._record.note(**facts)
        distributed.barrier()

    def only_tried(self, words: str) -> None:
        """Where a run is only tried: say what it starts from, and end; otherwise nothing."""

    def try_features(self, module: nn.Module, num_images: int, side: int) -> None:
        """Where a run is only tried: time and tell the features of its images, and end; otherwise nothing."""

    def describe(self, **facts: Any) -> None:
        """Add to the config that the folder holds what a later command needs to know of the model."""
        self.config |= facts
        if distributed.is_main():
            self._files.write_config(to_plain(self.config))

    def finish(self, result: dict[str, Any]) -> None:
        """Mark the run as finished, with the result that a second call prints."""
        if distributed.is_main():
            self._record.write("finished", result)
        self.result = result
        distributed.barrier()

    # Model, optimizer and what else a checkpoint holds

    def prepare(self, model: nn.Module, optimizer: Any, loader: Any, **parts: Any) -> Any:
        """Take the model and optimizer under the run's care and continue from its checkpoint, if there is one.

        `loader` makes the views of the steps; how many they are decides whether compiling pays. `parts` are further
        objects with `state_dict` and `load_state_dict` (an EMA); the running average that the config may ask for is one
        that a run makes itself. Returns what a step calls: `forward(images)` computes in the training precision, over
        all ranks, and returns float32.
        """
        self.runtime.expect(self.config["epochs"] * loader.num_pixels)
        loader.compile()
        self.parts = TrainedParts(model, optimizer, self.config.get("average_decay"), **parts)
        self._restore(distributed.on_main(lambda: checkpoint.load(self.folder)))
        if distributed.world_size() > 1:
            self.parts.synchronize()
        network = self.runtime.optimize(distributed.data_parallel(self.parts.network, self.runtime.device))
        return lambda images, **kwargs: self.runtime.forward(network, images, self.runtime.training, **kwargs)

    @property
    def model(self) -> Any:
        """What to evaluate and to save: the running average of the trained network, or else that network itself."""
        return self.parts.model

    def _restore(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        try:
            self._take(state)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            problem = str(error).split("\n")[0]
            raise UserError(
                f"the checkpoint in {self.folder} does not fit this run ({problem}); move it away and run the same "
                "command, or start again with overwrite=true"
            ) from error
        if self.epoch < self.num_epochs:
            say(f"continuing at epoch {self.epoch + 1} of {self.num_epochs}, step {self.step_in_epoch + 1}")

    def _take(self, state: dict[str, Any]) -> None:
        self.parts.load_state_dict(state)
        self.epoch, self.step_in_epoch, self.num_steps = state["epoch"], state["step"], state["num_steps"]
        self.values, self.metrics = state["values"], [dict(line) for line in json.loads(state["metrics"])]
        self.totals.load_state_dict(state["totals"], self.runtime.device)
        self._record.seconds_before = state["seconds"]
        if state["scaler"]:
            self.runtime.scaler.load_state_dict(state["scaler"])

    def save(self) -> None:
        """Write a checkpoint of this very instant; refuses to write weights that are not finite."""
        self._check_finite()
        if distributed.is_main():
            state = {
                "epoch": self.epoch,
                "step": self.step_in_epoch,
                "num_steps": self.num_steps,
                "values": self.values,
                "metrics": json.dumps(self.metrics),
                "totals": self.totals.state_dict(),
                "seconds": self.seconds,
                "scaler": self.runtime.scaler.state_dict(),
            }
            checkpoint.save(self.folder, state | self.parts.state_dict())
        self._stopping.saved()
        distributed.barrier()

    # The loop

    def epochs(self) -> Iterator[int]:
        """Yield the epochs that are left, from 0; the body ends with `end_epoch`."""
        if distributed.is_main():
            self._files.write_metrics(self.metrics)
            self._board = Board(self.folder, self.config["tensorboard"], self.epoch)
        self._stopping.steps_are_taken = True
        try:
            with self._profiler or contextlib.nullcontext():
                while self.epoch < self.num_epochs and "ended" not in self.values:
                    yield self.epoch
        finally:
            self._board.close()
            self._stopping.steps_are_taken = False
        if self._stopping.signalled():  # it came after the last epoch had looked
            self._stopping.leave()

    def profile(self, num_steps: int) -> None:
        """Record the first `num_steps` steps as trace.json in the run folder, and stop after them; 0 does nothing."""
        if num_steps:
            self._profiler = StepProfiler(num_steps, self.folder / "trace.json")

    def steps(self, loader: Any) -> Iterator[Any]:
        """Yield the batches that are left in this epoch; saves and stops between steps when it is time."""
        total = len(loader)
        description = f"{self.stage} {self.epoch + 1}/{self.num_epochs}"
        for batch in progress(loader.epoch(self.epoch, self.step_in_epoch), total - self.step_in_epoch, description):
            self.parts.set_rate(rate_of(self.config, self.epoch, self.step_in_epoch / total))
            yield batch
            # The body has finished this step, an EMA's update included: what is saved now is consistent.
            self.parts.move_average(self.num_steps)
            self.step_in_epoch += 1
            if self._profiler:
                self._profiler.step()
            if self.num_steps % self.config["log_every"] == 0:
                self._check_finite()
            last = self.step_in_epoch == total
            if last or self._stopping.agrees_after(self.num_steps):
                self._save_or_stop(self._stopping.save_is_due() and not last, last)
        self._check_finite()  # before anything is chosen or saved by what these weights predict

    def step(self, loss: Tensor, skip: Tensor | None = None, **values: Tensor) -> None:
        """One optimizer step down the scalar `loss`; its mean and that of other scalars become the epoch's metrics.

        Where `skip` (a boolean tensor on the device) is true, weights and optimizer state stay as they are, without
        waiting for the device to know; such batches are counted and left out of the means.
        """
        self.parts.optimizer.zero_grad(set_to_none=True)
        self.runtime.scaler.scale(loss).backward()
        take_step(self.parts.optimizer, self.runtime.scaler, skip)
        self.num_steps += 1
        self.totals.add(loss=loss, **values)
        if skip is not None:
            self.totals.count(skipped_batches=skip)

    def _save_or_stop(self, due: bool, last: bool) -> None:
        """Save where that is due, or where the run is to stop; the clock does not stop it where this is the `last`."""
        signalled = self._stopping.signalled()
        late = not signalled and not last and self._stopping.is_late(self.seconds)
        if due or signalled or late:
            self.save()
        if (signalled or late) and distributed.is_main():
            self._record.write("running")  # how long it took so far counts in what others may take
        if signalled:
            self._stopping.leave()
        if late:
            raise TimeOverError(
                f"stopped after {self.seconds / 60:.1f} minutes, at epoch {self.epoch + 1}, step {self.step_in_epoch}; "
                f"{self._again} with more minutes continues from there"
            )

    def end(self, reason: str) -> None:
        """Have no epoch follow this one; the reason becomes part of the result."""
        self.values["ended"] = reason

    def improved(self, loss: float) -> bool:
        """Whether a label-free loss, which must be finite, is lower than after every epoch before; it is remembered."""
        self._check_finite(loss)
        if loss >= self.values.get("best_loss", math.inf):
            return False
        self.values |= {"best_loss": loss, "best_epoch": self.epoch + 1}
        return True

    def end_epoch(self, **scores: Any) -> None:
        """Close an epoch: its line goes to metrics.jsonl, and a checkpoint is written when one is due."""
        self._check_finite()
        line = {"epoch": self.epoch + 1, "lr": self.parts.rate, **self.totals.metrics(self.step_in_epoch), **scores}
        line = {key: value for key, value in line.items() if value is not None}
        self.metrics.append(line)
        self.epoch, self.step_in_epoch, self.totals = self.epoch + 1, 0, Totals()
        if distributed.is_main():
            self._files.write_metrics(self.metrics)
            self._board.scalars(line, self.epoch)
        say(f"epoch {self.epoch}/{self.num_epochs}  {in_words(line)}")
        last = self.epoch == self.num_epochs or "ended" in self.values
        self._save_or_stop(last or self.epoch % self.config["checkpoint_every"]["epochs"] == 0, last)

    # What can go wrong

    def _check_finite(self, validation_loss: float = 0.0) -> None:
        values = [*self.totals.sums.values(), *self.parts.weights]
        finite = not values or bool(torch.stack([value.isfinite().all() for value in values]).all())
        if not (finite and math.isfinite(validation_loss)):
            newest = self.folder / checkpoint.NEWEST
            kept = f"the last good checkpoint is {newest}" if newest.exists() else "no checkpoint was written yet"
            narrow = "" if self.runtime.training == torch.float32 else " or precision=fp32"
            raise UserError(
                f"loss or weights are no longer finite at epoch {self.epoch + 1}, step {self.step_in_epoch}, learning "
                f"rate {self.parts.rate:g}; {kept}. Try a lower optimizer_kwargs.lr{narrow}, with another run_name or "
                "overwrite=true"
            )

    def _goodbye(self) -> str:
        whole = self._stopping.steps_are_taken
        done = f"epoch {self.epoch + 1}, step {self.step_in_epoch}" if whole else "the last checkpoint"
        return f"stopped by a signal; everything up to {done} is in {self.folder}; {self._again} continues from there"
