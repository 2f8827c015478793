"""Processes that end with their parent, however that ends.

    python system/processes.py PARENT script.py ARGUMENTS
    python system/processes.py PARENT -m module ARGUMENTS

Run as a script, it becomes the program that is named, bound to the process PARENT from its first moment on: that is why
it imports nothing but the standard library.
"""

import ctypes
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent ends
LOOK_EVERY = 1.0  # seconds; where the system sends no signal


def end_with_parent(parent: int) -> None:
    """Have this process end with its parent `parent`, and at once where that is gone already.

    On Linux the kernel does it, when the thread that started this process ends; elsewhere a thread looks. On Windows
    nothing does: there `python` of a virtual environment is not the process that was started, but its child.
    """
    if sys.platform == "win32":
        return
    if not _told_by_the_kernel():
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        _end()


def end_with_launcher() -> None:
    """Have a rank that torchrun started end with it; any other process may outlive the one that started it."""
    if "TORCHELASTIC_RUN_ID" in os.environ and hasattr(os, "getppid"):
        end_with_parent(os.getppid())


def bound(program: Sequence[str]) -> list[str]:
    """The command that runs what `python PROGRAM` does, as a process that ends with this one."""
    return [sys.executable, str(Path(__file__).resolve()), str(os.getpid()), *program]


def _told_by_the_kernel() -> bool:
    if sys.platform != "linux":
        return False
    return ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY)
    _end()


def _end() -> None:
    os._exit(128 + 9)  # as the kernel's SIGKILL would: nobody is left to read another code


def _main() -> None:
    parent, *program = sys.argv[1:]
    end_with_parent(int(parent))
    if program[0] == "-m":
        sys.argv = program[1:]
        sys.path[0] = ""
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        sys.path[0] = str(Path(program[0]).resolve().parent)
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    _main()
