"""Where a training step's time goes: views, network, host; eager and compiled; and what a whole recipe will take."""

import time
from collections.abc import Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import common
from benchmarks.steps import CONFIGS, Step
from system.runtime import Runtime
from utils.config import load_config

NUM_TRAIN = 50_000  # images of CIFAR-10
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")  # the last, for the whole device, is the profile's own
TRACED = 32  # steps, so that the views of a group of steps are among them


def _seconds(step: Step, num_steps: int, what: str) -> float:
    """Seconds of one step of `num_steps`: the whole, its views alone, or the network alone on views that are there."""
    ready = next(step.batches).views
    common.synchronize(step.runtime.device)
    started = time.perf_counter()
    for _ in range(num_steps):
        if what == "views":
            next(step.batches)
        else:
            step(ready if what == "network" else None)
    common.synchronize(step.runtime.device)
    return (time.perf_counter() - started) / num_steps


def _busy(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def _trace(step: Step, num_steps: int) -> dict[str, Any]:
    """Idle share of the device, launches and waits of a step, and the kernels that take most of it."""
    if step.runtime.device.type != "cuda":
        return {}
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as trace:
        for _ in range(num_steps):
            step()
        common.synchronize(step.runtime.device)
    events = trace.events() or []
    on_device = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    kernels = [event for event in on_device if not getattr(event, "is_user_annotation", False)]
    spans = [(event.time_range.start, event.time_range.end) for event in kernels]
    span = max(end for _, end in spans) - min(start for start, _ in spans)
    by_name: dict[str, float] = {}
    for event in kernels:
        by_name[event.name] = by_name.get(event.name, 0.0) + event.time_range.elapsed_us()
    costly = sorted(by_name.items(), key=lambda item: -item[1])[:20]
    return {
        "idle_share": round(1 - _busy(spans) / span, 4),
        "launches_per_step": round(len(kernels) / num_steps, 1),
        "waits_per_step": round(sum(event.name in WAITS for event in events) / num_steps, 2),
        "microseconds_per_step": {name[:100]: round(taken / num_steps, 1) for name, taken in costly},
    }


def _tflop(step: Step) -> float:
    """TFLOP of one step, counted (a multiplication and an addition are two)."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e12


def profile_stage(stage: str, runtime: Runtime, num_steps: int, words: list[str], peak_tflops: float) -> dict[str, Any]:
    """One stage's step, eager or compiled as the runtime says."""
    step = Step(stage, runtime, words)
    eager = Runtime(runtime.device, runtime.training, runtime.inference)
    tflop = _tflop(Step(stage, eager, words, 2 * step.p.batch_size))
    started = time.perf_counter()
    for _ in range(3):
        step()
    common.synchronize(runtime.device)
    first = time.perf_counter() - started
    for _ in range(num_steps):  # autotuning and the clock settle
        step()
    seconds = {what: _seconds(step, num_steps, what) for what in ("whole", "views", "network")}
    num_views = 2 * step.p.batch_size
    return {
        "batch_size": step.p.batch_size,
        "first_three_steps_seconds": round(first, 2),
        "seconds_per_step": {what: round(value, 6) for what, value in seconds.items()},
        "views_per_second": round(num_views / seconds["whole"], 1),
        "tflop_per_step": round(tflop, 4),
        "tflops": round(tflop / seconds["whole"], 2),
        "fraction_of_peak": round(tflop / seconds["whole"] / peak_tflops, 4),
        "share_of_views": round(seconds["views"] / seconds["whole"], 4),
        "trace": _trace(step, min(num_steps, TRACED)),
        "peak_memory_gb": common.peak_memory_gb(runtime.device),
    }


def project(profiles: dict[str, Any], minutes: float, suffix: str) -> dict[str, Any]:
    """Seconds of a recipe's steps by a profile, compiling included, and the pretext epochs that fit into `minutes`.

    Start-up, monitoring, mining and evaluation come on top: allow a minute and a half for them.
    """
    stages: dict[str, dict[str, Any]] = {}
    for stage, path in CONFIGS.items():
        p = load_config(None, common.ROOT / "configs" / path.replace("_jpeg", suffix), [])
        num_views = 2 * (NUM_TRAIN // p.batch_size) * p.batch_size
        if stage not in profiles:
            raise SystemExit(f"the profile lacks {stage}; measure it: python -m benchmarks.gpu profile, without --only")
        for name, found in profiles[stage].items():
            if name == "compiled" and p.compile is False:
                continue
            epoch, start = num_views / found["views_per_second"], found["first_three_steps_seconds"]
            total = start + p.epochs * epoch
            if stage not in stages or total < stages[stage]["seconds"]:
                stages[stage] = {"variant": name, "start": start, "epoch": epoch, "epochs": p.epochs, "seconds": total}
    pretext = stages["simclr"]
    left = 60 * minutes - pretext["start"] - sum(stages[stage]["seconds"] for stage in ("scan", "selflabel"))
    return {
        "recipe": suffix.removeprefix("_"),
        "seconds": round(sum(found["seconds"] for found in stages.values()), 1),
        "stages": stages,
        "minutes": minutes,
        "pretext_epochs_that_fit": max(0, min(pretext["epochs"], int(left / pretext["epoch"]))),
    }
