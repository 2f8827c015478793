"""What benchmarks share: the facts of a machine, timings with their spread, result files, and processes to kill."""

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from system.files import write_text
from system.runtime import describe
from training.record import git_commit

try:
    import resource  # absent on Windows
except ImportError:
    resource = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "scikit-learn",
    "scipy",
    "faiss-cpu",
    "faiss-gpu",
    "onnxruntime",
    "timm",
)
TELLING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


def _cpu() -> tuple[str, list[str]]:
    """The CPU's name and those of its flags that matter for speed."""
    name, flags = platform.processor() or platform.machine(), set()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
    return name, [flag for flag in TELLING_FLAGS if flag in flags]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that speed depends on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def machine(device: torch.device | str = "cpu", command: str | None = None) -> dict[str, Any]:
    """Facts that a figure means nothing without: CPU, cores, device, versions, commit, command, time.

    `command` is what to write in the place of the command line, which may name folders of one's own.
    """
    name, flags = _cpu()
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": name,
        "cpu_flags": flags,
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "device": describe(torch.device(device)),
        "system": platform.platform(),
        "versions": versions(),
        "commit": git_commit() or os.environ.get("COMMIT"),  # a copy without history is given it
        "command": command or " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def case_parser(doc: str | None, result: str) -> argparse.ArgumentParser:
    """The command line of a benchmark whose cases are kept in a result file and run once each."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--cache", type=Path, metavar="DIR")
    parser.add_argument("--summary", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / result, metavar="FILE")
    return parser


def read_cases(path: Path) -> dict[str, Any]:
    """A result file with `cases`, none where there is no file yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cases": []}


def write_result(path: Path | str, result: dict[str, Any]) -> None:
    """Write a benchmark's numbers as JSON, whole or not at all."""
    write_text(path, json.dumps(result, indent=1) + "\n")
    print(f"written: {path}")


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest of repeated measurements."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "repeats": len(values)}


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_calls(
    call: Callable[[], Any], repeats: int, device: torch.device | str = "cpu", warm_up: int = 1
) -> list[float]:
    """Seconds of each of `repeats` calls, after `warm_up` calls that do not count."""
    device = torch.device(device)
    seconds = []
    for number in range(warm_up + repeats):
        started = time.perf_counter()
        call()
        synchronize(device)
        if number >= warm_up:
            seconds.append(time.perf_counter() - started)
    return seconds


def peak_memory_gb(device: torch.device | str = "cpu") -> dict[str, float]:
    """The most memory in GB that this process and its children had, and that tensors had on a GPU."""
    device = torch.device(device)
    found = {}
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        found["host"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
        found["children"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e9
    if device.type == "cuda":
        found["device"] = torch.cuda.max_memory_allocated(device) / 1e9
    return {name: round(value, 3) for name, value in found.items()}


def wait(child: int, seconds: float) -> int | None:
    """The exit code of a process, or None when it was killed after some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def plain(value: Any) -> Any:
    """What a PyTorch file holds, tensors by shape and bytes: equal where the files say the same."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return (value.shape, value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value
