"""What tests of processes share: a Python program started from the repository, and who is left of its session."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from system.files import REPOSITORY

PATIENCE = 240  # seconds: nothing here takes as long, but for a machine that is busy


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


def find(told):
    """The processes of whose state, parent, group and session `told` is true, by their numbers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, *numbers = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it ended just now
            continue
        if told(state, *map(int, numbers)):
            found.append(int(folder.name))
    return found


def session(number):
    """The processes of a session that are alive."""
    return find(lambda state, parent, group, session: session == number and state != "Z")


def children(number):
    """The processes that a process started, by their numbers."""
    return find(lambda state, parent, group, session: parent == number)


def left(look, seconds=30):
    """What `look()` still finds after some seconds; it is not waited for longer than that."""
    end = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def tidy(number):
    """End what a test left of a session."""
    for pid in session(number):
        os.kill(pid, signal.SIGKILL)
