"""Files that are whole or absent, and known to be the ones that were written.

`write_file` is the only place of this project that writes a result. It writes beside the target, syncs, and renames;
the checksum goes to `manifest.json` in the same folder. Around the rename the manifest knows the old and the new
checksum, so that a kill between any two steps leaves a file that verifies.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import UserError

MANIFEST = "manifest.json"
TEMPORARY = ".partial"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its rename is journalled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_beside(path: Path, write: Callable[[BinaryIO], None]) -> Path:
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; {shutil.disk_usage(path.parent).free / 2**20:.0f} MiB "
            "are free there; what was at this path before is untouched"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _replace(temporary: Path, path: Path) -> None:
    temporary.replace(path)
    _sync_folder(path.parent)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(entry["sha256"], list) for entry in manifest.values()):
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged, so the files beside it cannot be checked; delete it to use them unchecked"
        ) from error
    return manifest


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest, indent=1, sort_keys=True).encode()
    _replace(_write_beside(folder / MANIFEST, lambda file: (file.write(text), None)[1]), folder / MANIFEST)


def write_file(
    path: Path | str,
    write: Callable[[BinaryIO], None],
    *,
    num_bytes: int = 0,
    record: bool = True,
    **facts: Any,
) -> None:
    """Write a file whole or not at all.

    A file that another stage reads is recorded: its checksum and `facts` (JSON values) go to the folder's manifest.
    `num_bytes` is about what will be written; room for it is checked first.
    Raises UserError when it cannot be written; the file that was there before is then untouched.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    free = shutil.disk_usage(path.parent).free
    if free < num_bytes:
        raise UserError(
            f"cannot write {path}: it needs {num_bytes / 2**20:.1f} MiB and {free / 2**20:.1f} MiB are free; make room "
            "and run the same command again"
        )
    temporary = _write_beside(path, write)
    if not record:
        _replace(temporary, path)
        return
    try:
        checksum = _sha256(temporary)
        manifest = _read_manifest(path.parent)
        old = manifest.get(path.name, {}).get("sha256", [])
        if len(old) > 1:  # a kill came between the steps below: only the file can tell which of the two it is
            old = [_sha256(path)] if path.exists() else []
        manifest[path.name] = {**facts, "sha256": [checksum, *old]}
        _write_manifest(path.parent, manifest)
        _replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    manifest[path.name] = {**facts, "sha256": [checksum]}
    _write_manifest(path.parent, manifest)


def write_text(path: Path | str, text: str, *, record: bool = False, **facts: Any) -> None:
    """Write a UTF-8 text file whole or not at all."""
    data = text.encode("utf-8", errors="surrogateescape")
    write_file(path, lambda file: (file.write(data), None)[1], record=record, **facts)


def verify_file(path: Path | str) -> dict[str, Any] | None:
    """Check a file against its recorded checksum and return the facts recorded with it.

    Returns None for a file that has no record (a published one). Raises UserError when the file does not match.
    """
    path = Path(path)
    entry = _read_manifest(path.parent).get(path.name)
    if entry is None:
        return None
    if not path.exists() or _sha256(path) not in entry["sha256"]:
        raise UserError(
            f"{path} is not the file that was written there: it was damaged or replaced; restore or recreate it, or "
            f"remove its entry from {path.parent / MANIFEST} to use it unchecked"
        )
    return {key: value for key, value in entry.items() if key != "sha256"}


def remove(path: Path | str) -> None:
    """Remove a file and its record; nothing happens when there is none."""
    path = Path(path)
    path.unlink(missing_ok=True)
    manifest = _read_manifest(path.parent)
    if manifest.pop(path.name, None) is not None:
        _write_manifest(path.parent, manifest)


def remove_temporaries(folder: Path) -> None:
    """Remove what writers that were killed left behind in a folder."""
    for path in folder.glob(f"*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def duplicate(path: Path, copy: Path) -> None:
    """Give a recorded file a second name, with its record; replaces what had that name."""
    temporary = copy.with_name(f"{copy.name}.{os.getpid()}{TEMPORARY}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, temporary)
    manifest = _read_manifest(path.parent)
    entry, old = manifest.get(path.name), manifest.get(copy.name, {}).get("sha256", [])
    if entry is not None:
        manifest[copy.name] = {**entry, "sha256": [*entry["sha256"], *old[:1]]}
        _write_manifest(path.parent, manifest)
    _replace(temporary, copy)
    if entry is not None:
        manifest[copy.name] = entry
        _write_manifest(path.parent, manifest)
