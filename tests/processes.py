"""What tests of processes share: a Python program started from the repository, and who is left of its session."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from system.files import REPOSITORY

PATIENCE = 60  # seconds: nothing here takes as long, but for a machine that is busy


def start(code, *words, **options):
    """A process that runs Python code, in a session of its own, with its standard output in a pipe."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, start_new_session=True, **options
    )


def finish(code, *words):
    """The exit code of Python code and what it printed, on both streams."""
    process = start(code, *words, stderr=subprocess.STDOUT)
    said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def kill(process):
    """SIGKILL, to this process alone."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def alive(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def session(number):
    """The processes of a session that are alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended just now
            continue
        if int(fields[3]) == number and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def children(parent):
    """The processes that a process started, by their numbers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(folder.name))
    return found


def left(look, seconds=5):
    """What `look()` still finds after some seconds; it is not waited for longer than that."""
    end = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def tidy(number):
    """End what a test left of a session."""
    for pid in session(number):
        os.kill(pid, signal.SIGKILL)
