"""One process writes to a run folder at a time; files that are locked are let go by forked children."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from system.console import warn
from system.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no flock; there the folder is not guarded
    fcntl = None  # type: ignore[assignment]

locked_files: set[IO[str]] = set()
"""Files that this process holds locked."""
_held_folders: set[Path] = set()


def _forget() -> None:
    """Close a forked child's copies: a worker that outlives its killed parent would go on holding the locks."""
    for file in locked_files:
        file.close()
    locked_files.clear()
    _held_folders.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def lock_folder(folder: Path) -> None:
    """Lock a folder for this process; the system releases it when the process ends, however it ends.

    Raises UserError that names the process holding it. A file left by a dead process holds nothing.
    """
    path = folder.resolve() / ".lock"
    if path in _held_folders:  # a second stage call in the same process, as the demo makes
        return
    file = path.open("a+", encoding="utf-8")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"{folder} is in use by another run ({_holder(file.read())}); wait for it to end, or give this one a "
                "run_name of its own"
            ) from error
        except OSError as error:  # some network file systems know no locks
            warn(f"{folder} cannot be locked ({error.strerror}); see to it that only one run uses it at a time")
    file.seek(0)
    file.truncate()
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": started}))
    file.flush()
    _held_folders.add(path)
    locked_files.add(file)


def holder(folder: Path) -> str | None:
    """The process that holds a folder, in words; None where nobody does, or where that is unknown."""
    if fcntl is None:
        return None
    with contextlib.suppress(FileNotFoundError), (folder / ".lock").open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(file.read())
        except OSError:  # some network file systems know no locks
            return None
    return None


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "by a process that did not leave its name"


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
