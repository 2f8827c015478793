"""One process writes to a folder at a time; files that are locked are let go by forked children.

The package filelock is not used: that the locked file is still the one on the disk (`check_held`), and who holds it,
is read from the open file, which filelock keeps private, and its versions before 4 empty the file of another holder.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from system.bounded import Scalar, parse_json
from system.console import warn
from system.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no flock; there the folder is not guarded
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_OURS = '{"pid": '  # what a lock file begins with, unless it is empty

locked_files: set[IO[str]] = set()
"""Files that this process holds locked."""
_held_folders: dict[Path, IO[str]] = {}
"""The lock files of the folders that this process holds, by their paths."""


def _forget() -> None:
    """Close a forked child's copies: a worker that outlives its killed parent would go on holding the locks."""
    for file in locked_files:
        file.close()
    locked_files.clear()
    _held_folders.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    except OSError:
        return False


def _held_as(path: Path) -> IO[str] | None:
    """The lock file at a path, if this process holds it; it may have been moved since it was locked."""
    for known, file in list(_held_folders.items()):
        if _is_at(file, path):
            _held_folders[path] = _held_folders.pop(known)
            return file
    gone = _held_folders.pop(path, None)
    if gone is not None:  # the folder was deleted, and another one stands in its place
        locked_files.discard(gone)
        gone.close()
    return None


def lock_folder(folder: Path, advice: str = "give this one a run_name of its own") -> bool:
    """Lock a folder for this process; the system releases it when the process ends, however it ends.

    `advice` is what may be done instead. Returns whether that keeps others out, which it does not on every file system.
    Raises UserError that names the process holding it. A file left by a dead process holds nothing.
    """
    path = folder.resolve() / LOCK
    if _held_as(path):  # a second stage call in the same process, as the demo makes
        return True
    file, guarded = _open(folder, path, advice)
    file.seek(0)
    if (text := file.read(len(_OURS))) != _OURS[: len(text)]:
        file.close()
        raise UserError(f"{path} was not written by this program; move it away, or use another folder")
    file.seek(0)
    file.truncate()
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": started}))
    file.flush()
    _held_folders[path] = file
    locked_files.add(file)
    return guarded


def _open(folder: Path, path: Path, advice: str) -> tuple[IO[str], bool]:
    """A lock file, opened and, if that can be, locked; raises UserError when it is held, or is a link."""
    while True:
        if path.is_symlink():
            raise UserError(f"{path} is a link, and a lock is never written through one; remove it")
        file, guarded = path.open("a+", encoding="utf-8", errors="replace"), fcntl is not None
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = _holder(file.read(4096))
                file.close()
                raise UserError(
                    f"{folder} is in use by another run ({holder}); wait for it to end, or {advice}"
                ) from error
            except OSError as error:  # some network file systems know no locks
                warn(f"{folder} cannot be locked ({error.strerror}); make sure that only one run uses it at a time")
                guarded = False
        if _is_at(file, path):
            return file, guarded
        file.close()  # its last holder removed it in between


def holder(folder: Path) -> str | None:
    """The process that holds a folder, in words; None where nobody does, or where that is unknown."""
    if fcntl is None:
        return None
    with contextlib.suppress(FileNotFoundError), (folder / LOCK).open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(file.read(4096))
        except OSError:  # some network file systems know no locks
            return None
    return None


def _holder(text: str) -> str:
    try:
        holder = parse_json(text, dict[str, Scalar])
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError):
        return "a process that did not leave its name"


def check_held(path: Path) -> None:
    """Raise UserError when a folder that this process had locked, and that holds `path`, was deleted or moved."""
    folder = path.parent.resolve()  # as it was locked: where links lead
    for above in (folder, *folder.parents):
        file = _held_folders.get(above / LOCK)
        if file is not None and not _is_at(file, above / LOCK):
            raise UserError(
                f"{above} was deleted, moved or replaced while this run was at work in it, so {path.name} cannot be "
                "written there; put it back where it was, or start the command again"
            )


def unlock_folder(folder: Path) -> None:
    """Let go of a folder that nothing was written to, and remove its lock file."""
    path = folder.resolve() / LOCK
    file = _held_folders.pop(path, None)
    if file is not None:
        at = _is_at(file, path)
        if at and fcntl is not None:  # before the lock is let go: another process may hold the file afterwards
            path.unlink()
        locked_files.discard(file)
        file.close()
        if at and fcntl is None:  # Windows removes no open file
            path.unlink(missing_ok=True)


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


@contextlib.contextmanager
def locked_briefly(folder: Path) -> Iterator[None]:
    """Hold a folder itself for a moment, where the system can, so that two writers of its list take turns."""
    descriptor = None
    with contextlib.suppress(OSError):
        if fcntl is not None:
            descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
