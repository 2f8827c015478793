"""A lock for which one waits: what one process makes, the others then find."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows has no flock; there the user sees to it that one process comes first
    fcntl = None  # type: ignore[assignment]

_held: set[IO[str]] = set()


def _forget() -> None:
    """Close a forked child's copies: a worker that outlives its killed parent would go on holding the lock."""
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for other processes; the system drops the lock of a process that dies.

    Raises OSError when the file or its folder cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)
