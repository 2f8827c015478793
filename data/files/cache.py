"""One pass over many image files, kept: their squares as one memory-mapped file of bytes."""

import hashlib
import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from data.dataset import ImageDataset
from data.files.listing import ImageFiles, leave_out
from data.files.reading import Reading, record_of
from data.files.stream import StreamDataset
from data.files.workers import read_squares
from system.bounded import read_json
from system.console import say
from system.errors import UserError
from system.files import may_write, write_file, write_text
from system.lock import locked
from system.paths import expand_path
from system.text import shown

MAX_FACTS = 16 << 20  # bytes of what is known of a cache; it names every image that cannot be read


class Facts(BaseModel):
    """What is recorded with a cache: its sources' fingerprint, its images', and why which files are left out."""

    model_config = ConfigDict(strict=True)

    sources: str
    fingerprint: str
    bad: dict[str, str]
    values: dict[str, Any] = {}


def open_cache(
    files: ImageFiles, split: str, read: Reading, folder: Path, on_bad_image: str
) -> ImageDataset | StreamDataset:
    """Open the cache of these files in `folder`, writing it when it is missing or its sources have changed.

    Images have their short side scaled to one length and the center square cut, and are read from disk when they
    are gathered. Several processes write it once. In a dry run, which writes nothing, images are streamed where
    there is no cache yet. Raises UserError when the disk has no room (naming the size needed) or images are bad
    and `on_bad_image` is not "skip".
    """
    folder, side = Path(expand_path(folder)), read.side
    place = hashlib.sha256(os.fsencode(files.root.resolve())).hexdigest()[:8]
    path = folder / f"{files.name}-{split}-{side}-{place}.bin"
    try:
        facts = _read_facts(path, files, read)  # without a lock, as the folder may be one that can only be read
        if facts is None and not may_write():
            say("a dry run writes no cache: the images that it needs are decoded, which takes longer")
            return StreamDataset(files, read, on_bad_image)
        if facts is None:
            with locked(path.with_suffix(".lock")):
                facts = _read_facts(path, files, read) or _write(path, files, read, on_bad_image)
    except OSError as error:
        raise UserError(f"cache_dir {shown(folder)} cannot be used: {error.strerror or error}") from error
    bad = {i: facts["bad"][name] for i, name in enumerate(files.paths) if name in facts["bad"]}
    good = leave_out(files, bad, on_bad_image)
    columns = np.memmap(path, dtype=np.uint8, mode="r", shape=(len(good), 3, side, side))
    with warnings.catch_warnings():  # PyTorch warns that these pages cannot be written to; nobody does
        warnings.simplefilter("ignore", UserWarning)
        images = torch.from_numpy(columns)
    return ImageDataset(
        good.name,
        images,
        good.targets,
        good.classes,
        good.paths,
        root=good.root,
        fingerprint=facts["fingerprint"],
    )


def _read_facts(path: Path, files: ImageFiles, read: Reading) -> dict[str, Any] | None:
    """What was recorded with the cache; None when it is missing, torn, or of other sources."""
    record = path.with_suffix(".json")
    if not (path.exists() and record.exists()):
        return None
    try:
        facts = read_json(record, Facts, MAX_FACTS)
        num_images = len(files) - len(facts["bad"])
        whole = path.stat().st_size == num_images * 3 * read.side**2 and facts["bad"].keys() <= set(files.paths)
        current = whole and facts["sources"] == files.fingerprint(times=True)
        current = current and facts.get("values", {}) == _values_of(read)
    except UserError:
        current = False
    return facts if current else None


def _values_of(read: Reading) -> Any:
    """The values of wide gray, as JSON gives them back; what earlier versions wrote has none."""
    return json.loads(json.dumps(record_of(replace(read.values, old=False))))


def _write(path: Path, files: ImageFiles, read: Reading, on_bad_image: str) -> dict[str, Any]:
    num_bytes = len(files) * 3 * read.side**2
    for written in (path, path.with_suffix(".json")):  # their names, by a digest, are used by nothing else
        if written.is_symlink():
            raise UserError(f"{shown(written)} is a link, and nothing is replaced through one; give another cache_dir")
    path.with_suffix(".json").unlink(missing_ok=True)  # never an old record next to a new file
    if path.exists():
        say(f"the cache {shown(path)} is not of these images as they are now; it is written again")
    sources = files.fingerprint(times=True)
    bad: dict[int, str] = {}

    def write(file: BinaryIO) -> None:
        first = 0
        for squares, reasons in read_squares(files.full_paths(), read.side, read.values, desc="writing the cache"):
            bad.update(reasons)
            good = [i for i in range(len(squares)) if first + i not in reasons]
            first += len(squares)
            if bad and on_bad_image != "skip":
                continue  # to count them all; nothing will be kept
            try:
                file.write(squares[good].data)
            except OSError as error:
                raise UserError(
                    f"the cache {shown(path)} needs {num_bytes / 1e9:.3g} GB and cannot be written: {error.strerror}"
                ) from error
        if on_bad_image != "skip" or len(bad) == len(files):
            leave_out(files, bad, on_bad_image)  # which raises an error

    say(f"writing the cache {shown(path)} ({num_bytes / 1e9:.3g} GB), once")
    write_file(path, write, num_bytes=num_bytes, record=False)
    facts = {
        "sources": sources,
        "fingerprint": files.without(bad).fingerprint(),
        "bad": {files.paths[i]: reason for i, reason in bad.items()},
    }
    if values := _values_of(read):
        facts["values"] = values
    write_text(path.with_suffix(".json"), json.dumps(facts))
    return facts
