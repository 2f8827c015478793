"""The one place that starts processes which decode images: they end with this one, and leave its signals to it."""

import atexit
import functools
import multiprocessing
import os
import signal
import sys
import weakref
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

from torch.utils.data import DataLoader

from system.processes import end_with_parent
from system.signals import block, held

CAN_FORK = sys.platform == "linux"  # elsewhere processes are spawned, which needs a `__main__` guard in a script

_started: "weakref.WeakSet[Any]" = weakref.WeakSet()


def options(num_workers: int) -> dict[str, Any]:
    """The arguments of a DataLoader with `num_workers` processes; 0 means none."""
    if num_workers == 0:
        return {"num_workers": 0}
    return {
        "num_workers": num_workers,
        "multiprocessing_context": multiprocessing.get_context("fork" if CAN_FORK else "spawn"),
        "worker_init_fn": functools.partial(_begin, os.getpid()),
    }


def _begin(parent: int, worker: int) -> None:
    block()
    end_with_parent(parent)


def start(loader: DataLoader) -> Iterator[Any]:
    """Start a loader's processes and iterate over it; a signal that comes meanwhile is handled afterwards."""
    if loader.num_workers and not CAN_FORK:
        resource_tracker.ensure_running()  # its start, in the middle of the first process's, would unblock signals
    before = set(multiprocessing.active_children())
    with held():
        iterator = iter(loader)
    _started.update(set(multiprocessing.active_children()) - before)
    return iterator


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_started.clear)  # a child's brothers are not its to end


@atexit.register  # before multiprocessing's own, which waits for processes that its SIGTERM does not reach
def _end_all() -> None:
    alive = [process for process in _started if process.is_alive()]
    if alive and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would raise that one was killed
    for process in alive:
        process.kill()
