"""Files that are whole or absent, and known to be the ones that were written.

`write_file` is the only place of this project that writes a result. It writes by `system.atomic`; the checksum goes to
`manifest.json` in the same folder. Around the rename the manifest knows the old and the new file, so that a kill
between any two steps leaves a file that verifies. The manifest holds its own checksum too.

The manifest is also the list of what this program wrote in a folder (`is_own`): a name without a checksum is a file
that is not read again. What is not on it is the user's, and `system.owned` neither removes nor replaces it.
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from system import atomic
from system.bounded import Scalar, parse_json, read_bytes
from system.errors import UserError
from system.lock import check_held, locked_briefly

REPOSITORY = Path(__file__).resolve().parent.parent
MANIFEST = "manifest.json"

_may_write = True

Entry = dict[str, Scalar]  # one file that may be at a path: its sha256 and the facts recorded with it
Manifest = dict[str, list[Entry]]


@contextlib.contextmanager
def nothing_written() -> Iterator[None]:
    """Have `write_file` refuse to write, as in a dry run."""
    global _may_write
    before, _may_write = _may_write, False
    try:
        yield
    finally:
        _may_write = before


def may_write() -> bool:
    """Whether files may be written now."""
    return _may_write


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dump(manifest: Manifest) -> str:
    text = json.dumps(manifest, indent=1, sort_keys=True)
    return json.dumps({"files": manifest, "sha256": hashlib.sha256(text.encode()).hexdigest()}, indent=1)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        data = read_bytes(path)
        manifest = parse_json(data, dict[str, dict[str, list[Entry]] | str])["files"]
        if (
            not all(isinstance(entry.get("sha256"), str) for entries in manifest.values() for entry in entries)
            or _dump(manifest).encode() != data
        ):
            raise ValueError
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged or another program's, so the files next to it cannot be checked; if it is another's, "
            "write elsewhere; else restore it, or delete it to use them unchecked"
        ) from error
    return manifest


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    data = _dump(manifest).encode()
    atomic.replace(atomic.write_beside(folder / MANIFEST, lambda file: file.write(data), len(data)), folder / MANIFEST)


def _entries(path: Path, manifest: Manifest) -> list[Entry]:
    """What the manifest knows of the file that is at a path now."""
    entries = manifest.get(path.name, [])
    if len(entries) > 1:  # a kill came around a rename: only the file shows which of the two it is
        checksum = _sha256(path) if path.exists() else None
        entries = [entry for entry in entries if entry["sha256"] == checksum]
    return entries


def names_of(folder: Path) -> set[str]:
    """The names on a folder's list; raises UserError when it is damaged."""
    return set(_read_manifest(folder))


def is_own(path: Path | str) -> bool:
    """Whether this program wrote the file at a path: it is on its folder's list, and no link, folder or device."""
    path = Path(path)
    try:
        regular = stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return regular and path.name in _read_manifest(path.parent)


def _check_target(path: Path, listed: bool) -> None:
    """Raise UserError where a write would replace what is not a file, or is not on the list that is kept."""
    if not os.path.lexists(path):
        return
    if not path.is_file() and not path.is_symlink():
        raise UserError(f"cannot write {path}: it is not a regular file; give another name")
    if listed and not is_own(path):
        what = "is a link" if path.is_symlink() else "was not written by this program"
        raise UserError(f"{path} {what}, so it is not replaced; move it away, or write to another folder")


def write_file(
    path: Path | str,
    write: Callable[[BinaryIO], object],
    *,
    num_bytes: int = 0,
    record: bool = True,
    listed: bool = False,
    keep: str | None = None,
    **facts: Any,
) -> None:
    """Write a file whole or not at all.

    A file that is read again is recorded: its checksum and `facts` (JSON values) go to the folder's manifest. One that
    is only looked at, under a name that the user did not choose, is `listed` there without (`record` is then false),
    and never takes the place of a file of the user's. Anything else is a file that the user named: it is written
    where a link leads.
    `num_bytes` is about what will be written; room for it is checked first. The file that was there before takes the
    name `keep` in the same folder, if one is given.
    Raises UserError when it cannot be written; the file that was there before is then untouched.
    """
    path = Path(path)
    if not _may_write:
        raise UserError(f"a dry run writes nothing, and this one needs {path}; run the command without --dry_run")
    if not record and not listed:
        path = Path(os.path.realpath(path))
    check_held(path)
    with atomic.explained(path, lambda: num_bytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        _check_target(path, listed)
    if free < num_bytes:
        raise UserError(
            f"cannot write {path}: it needs {atomic.mib(num_bytes)} and {atomic.mib(free)} are free there; what was "
            "there before is untouched; make room and run the same command again"
        )
    temporary = atomic.write_beside(path, write, num_bytes)
    try:
        check_held(path)
        if record:
            _replace_recorded(temporary, path, path.with_name(keep) if keep else None, facts)
        else:
            if listed:
                add_to_list(path.parent, [path.name])
            atomic.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def add_to_list(folder: Path, names: Iterable[str]) -> None:
    """Put names on the list of what this program wrote in a folder; raises UserError when the list is damaged."""
    with locked_briefly(folder):
        manifest = _read_manifest(folder)
        if not manifest.keys() >= set(names):
            _write_manifest(folder, {name: [] for name in names} | manifest)


def _replace_recorded(temporary: Path, path: Path, kept: Path | None, facts: dict[str, Any]) -> None:
    new = [{**facts, "length": temporary.stat().st_size, "sha256": _sha256(temporary)}]
    with locked_briefly(path.parent):
        manifest = _read_manifest(path.parent)
        old = _entries(path, manifest)
        during = {path.name: new + old}
        after = {path.name: new}
        if kept and path.exists():
            during[kept.name] = old + _entries(kept, manifest)
            after[kept.name] = old
        _write_manifest(path.parent, manifest | during)
        if kept and path.exists():
            with atomic.explained(kept, lambda: 0):
                path.replace(kept)
        atomic.replace(temporary, path)
        _write_manifest(path.parent, manifest | after)


def write_text(path: Path | str, text: str, *, record: bool = False, listed: bool = False, **facts: Any) -> None:
    """Write a UTF-8 text file whole or not at all."""
    data = text.encode("utf-8", errors="surrogateescape")
    write_file(path, lambda file: file.write(data), num_bytes=len(data), record=record, listed=listed, **facts)


def verify_file(path: Path | str, replaceable: bool = False) -> dict[str, Any] | None:
    """Check a file against its recorded checksum and return the facts recorded with it.

    Returns None for a file that has no record (a published one). Where a user may have replaced our file by one of
    their own and the reader notices truncation (`replaceable`), a file of another length has no record either.
    Raises UserError when the file does not match.
    """
    path = Path(path)
    seen: list[dict[str, Any]] = []
    while (entries := _read_manifest(path.parent).get(path.name, [])) != seen:  # a run may write it in the meantime
        checksum = _sha256(path) if path.exists() else None
        for entry in entries:
            if entry["sha256"] == checksum:
                return {key: value for key, value in entry.items() if key not in ("length", "sha256")}
        seen = entries
    if not entries:
        return None
    if replaceable and path.exists() and path.stat().st_size not in [entry.get("length") for entry in entries]:
        return None
    raise UserError(
        f"{path} is not the file that was written there: it was damaged or replaced; restore it or make it again (to "
        f"use it unchecked, give it another name or remove its entry from {MANIFEST})"
    )


def recorded_checksum(path: Path | str) -> str | None:
    """The SHA-256 that a file was written with, by its folder's list; None where there is none, or the file is gone."""
    path = Path(path)
    entries = _entries(path, _read_manifest(path.parent)) if path.exists() else []
    return str(entries[0]["sha256"]) if entries else None


def remove(path: Path | str) -> bool:
    """Remove a file that this program wrote, and its record; whether there was one. Anything else stays."""
    path = Path(path)
    found = is_own(path)
    if found:
        path.unlink()
    if not os.path.lexists(path):
        with locked_briefly(path.parent):
            manifest = _read_manifest(path.parent)
            if manifest.pop(path.name, None) is not None:
                _write_manifest(path.parent, manifest)
    return found


def remove_temporaries(folder: Path, names: Collection[str] = ()) -> None:
    """Remove what killed writers of the files on a folder's list left behind.

    `names` are files that are only written under a lock which this process holds now.
    """
    ours = {MANIFEST, *names, *_read_manifest(folder)}
    atomic.remove_dead(folder, ours.__contains__, names)
