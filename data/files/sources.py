"""What the files of a folder were when a run began with them, and whether they still are, wherever they are now."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data.files.listing import ImageFiles
from system.console import progress
from system.errors import UserError
from system.files import is_own, verify_file, write_file
from system.text import shown

FORM = np.dtype([("size", "<i8"), ("time", "<i8"), ("hash", "V16")])
"""A file: its bytes, when they were modified in ns, and a digest of them."""
MISSING = -1  # the size of a file that cannot be read


def _names(files: ImageFiles) -> str:
    return hashlib.sha256(b"\0".join(map(os.fsencode, files.paths))).hexdigest()


def _stat(files: ImageFiles) -> np.ndarray:
    """Sizes and times of all files now; their digests are empty."""
    table = np.zeros(len(files), FORM)
    for row, path in zip(table, files.full_paths(), strict=True):
        try:
            stat = Path(path).stat()
            row["size"], row["time"] = stat.st_size, stat.st_mtime_ns
        except OSError:
            row["size"] = MISSING
    return table


def _hash(files: ImageFiles, table: np.ndarray, rows: Iterable[int]) -> None:
    """Fill in the digests of some files."""
    rows, paths = list(rows), files.full_paths()
    for row in progress(rows, len(rows), "noting the images"):
        try:
            with Path(paths[row]).open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
        except OSError:
            continue
        table["hash"][row] = np.void(digest)


def _read(path: Path) -> tuple[dict[str, Any], np.ndarray] | None:
    """A record and its facts; None when there is none that can be used."""
    try:
        facts = verify_file(path) if is_own(path) else None
        table = np.load(path, allow_pickle=False) if facts else None
    except (UserError, OSError, ValueError, EOFError):
        return None
    if facts is None or table is None or table.dtype != FORM or table.ndim != 1:
        return None
    return facts, table


def _write(path: Path, files: ImageFiles, table: np.ndarray) -> None:
    write_file(
        path,
        lambda file: np.save(file, table, allow_pickle=False),
        num_bytes=table.nbytes + 128,
        names=_names(files),
        num_images=len(files),
    )


def _moved(old: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Rows whose size or time differ, and only these can have other contents."""
    return np.flatnonzero((old["size"] != now["size"]) | (old["time"] != now["time"]))


def note(path: Path, files: ImageFiles, earlier: Path | None = None) -> None:
    """Write down what the files are now; an `earlier` record of the same names saves reading those that it knows."""
    table = _stat(files)
    known = _read(earlier) if earlier is not None else None
    rows: Iterable[int] = range(len(table))
    if known and known[0].get("names") == _names(files):
        rows = _moved(known[1], table)
        table["hash"] = known[1]["hash"]
    _hash(files, table, rows)
    _write(path, files, table)


def is_noted(path: Path) -> bool:
    """Whether there is a record that can be used."""
    return _read(path) is not None


def changes(path: Path, files: ImageFiles) -> str:
    """How files differ from a record of them, in words; empty when they do not, or when there is no record.

    Only files whose size or modification time is another are read. When their contents are the same, the record
    takes over the new times.
    """
    known = _read(path)
    if known is None:
        return ""
    (facts, old), now = known, _stat(files)
    if facts.get("names") != _names(files) or len(old) != len(now):
        same = "; the names differ" if len(old) == len(now) else ""
        return f"{len(old):,} images then, {len(now):,} now{same}"
    moved = _moved(old, now)
    now["hash"] = old["hash"]
    _hash(files, now, moved[old["size"][moved] == now["size"][moved]])
    changed = moved[(old["size"][moved] != now["size"][moved]) | (old["hash"][moved] != now["hash"][moved])]
    if len(changed):
        example = f"'{shown(files.paths[changed[0]])}'"
        return f"{len(changed):,} of {len(now):,} files have other contents, such as {example}"
    if len(moved):
        _write(path, files, now)
    return ""


def are_same(some: ImageFiles, others: ImageFiles) -> bool:
    """Whether two folders hold the same files under the same names; reads them all."""
    if some.paths != others.paths:
        return False
    tables = _stat(some), _stat(others)
    if (tables[0]["size"] != tables[1]["size"]).any():
        return False
    for files, table in zip((some, others), tables, strict=True):
        _hash(files, table, range(len(table)))
    return bool((tables[0]["hash"] == tables[1]["hash"]).all())
