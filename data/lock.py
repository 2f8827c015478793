"""A lock for which one waits: what one process makes, the others then find."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from system.lock import fcntl, locked_files


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for other processes; the system drops the lock of a process that dies.

    Raises OSError when the file or its folder cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if fcntl is not None:  # Windows has no flock; there the user sees to it that one process comes first
            fcntl.flock(file, fcntl.LOCK_EX)
        locked_files.add(file)
        try:
            yield
        finally:
            locked_files.discard(file)
