"""A file written whole or not at all: next to its target, synced, and renamed over it.

What a killed writer leaves is `NAME.PID.partial`, which the next writer of the same name removes.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from system.errors import UserError

TEMPORARY = ".partial"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) if hasattr(errno, "EDQUOT") else (errno.ENOSPC, errno.EFBIG)
NOT_POSSIBLE = (errno.EINVAL, errno.ENOTSUP)
"""What some shared file systems answer to a request to sync a folder; the file itself is synced before."""

_WRITER = re.compile(rf"(?P<target>.+?)(?:\.share\d+{re.escape(TEMPORARY)})?\.(?P<pid>\d+){re.escape(TEMPORARY)}", re.S)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its rename is journaled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_POSSIBLE:
            raise
    finally:
        os.close(descriptor)


def mib(num_bytes: int) -> str:
    """A number of bytes in MiB, in words."""
    return f"{num_bytes / 2**20:.1f} MiB"


@contextlib.contextmanager
def explained(path: Path, needed: Callable[[], int]) -> Iterator[None]:
    """Turn what the system says of a failed write into a sentence; `needed` gives how many bytes the file has."""
    try:
        yield
    except OSError as error:
        room = ""
        if error.errno in FULL:
            room = f": it needs {mib(needed())} and {mib(shutil.disk_usage(path.parent).free)} are free there"
        raise UserError(
            f"cannot write {path}: {error.strerror or error}{room}; what was there before is untouched; fix that and "
            "run the same command again"
        ) from error


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # there os.kill asks nothing, it ends
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is the user's, or no number of a process
        return True
    return True


def remove_dead(folder: Path, is_ours: Callable[[str], bool], dead: Collection[str] = ()) -> None:
    """Remove what killed writers of some targets left next to them: `NAME.PID.partial`, PID being no process now.

    Nobody writes the targets `dead` now, whoever has the PID of their writer.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            named = _WRITER.fullmatch(entry.name) if entry.is_file(follow_symlinks=False) else None
            if not named or not is_ours(named["target"]) or int(named["pid"]) == os.getpid():
                continue
            if named["target"] in dead or not _is_alive(int(named["pid"])):
                Path(entry.path).unlink(missing_ok=True)


def write_beside(path: Path, write: Callable[[BinaryIO], object], num_bytes: int = 0) -> Path:
    """Write what will be the file at a path next to it, and return where; nothing is left where that fails."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    remove_dead(path.parent, lambda target: target == path.name)
    written = 0
    try:
        with explained(path, lambda: max(num_bytes, written)), temporary.open("wb") as file:
            try:
                write(file)
            finally:
                written = file.tell()
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def replace(temporary: Path, path: Path) -> None:
    """Rename what `write_beside` wrote to its path; where that cannot be, it is removed, and the path is untouched."""
    try:
        with explained(path, lambda: 0):
            temporary.replace(path)
            _sync_folder(path.parent)
    except UserError:
        temporary.unlink(missing_ok=True)
        raise
