"""A trace of a few training steps, to be opened in a browser's tracing page or Perfetto."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from system import distributed
from system.console import say, say_block, warn
from system.files import write_file

WARM_UP = 3


class StepProfiler:
    """Records `num_steps` steps after three of warm-up, writes the trace, shows the costliest operators, and exits."""

    def __init__(self, num_steps: int, path: Path) -> None:
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
        self.path, self._left = path, num_steps + WARM_UP
        steps = schedule(wait=0, warmup=WARM_UP, active=num_steps)
        self._profiler = profile(activities=activities, schedule=steps, acc_events=True)

    def __enter__(self) -> None:
        """Begin with the step that comes next."""
        self._profiler.start()

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Where a run ended before there was a trace, say so."""
        if error is None:
            self._profiler.stop()
            warn(f"no trace was written: {self._left} steps were missing; --profile takes {WARM_UP} beyond its number")

    def step(self) -> None:
        """Count one step; after the last raises SystemExit(0)."""
        self._profiler.step()
        self._left -= 1
        if self._left == 0:
            self._profiler.stop()
            if distributed.is_main():  # one trace stands for all ranks, whose steps are alike
                write_file(
                    self.path, lambda file: self._profiler.export_chrome_trace(file.name), record=False, listed=True
                )
                by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
                say_block(self._profiler.key_averages().table(sort_by=by, row_limit=20))
                say(f"trace: {self.path}")
            raise SystemExit(0)
