"""Untrusted files: their size, form and types are checked before anything is allocated for them.

JSON records, lists in text and .npy arrays are read here; PyTorch files and pickles in `system.pickles`, YAML in
`system.yaml_file`. What is wrong with a file becomes one UserError; a file that is missing is a FileNotFoundError.
"""

import functools
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from system.errors import UserError
from system.paths import open_regular

MAX_RECORD = 8 << 20  # bytes of a JSON file; it takes up to twenty times as much once it is read
MAX_LINES, MAX_LINE = 64 << 20, 1 << 20  # bytes of a file of JSON lines, and of a line
MAX_HEADER = 10_000  # bytes of a .npy file's header, as numpy itself has it
MAX_NUMBERS = 2**56  # of an array, whatever its shape

Scalar = bool | int | float | str | None


def read_bytes(path: Path | str, max_bytes: int = MAX_RECORD) -> bytes:
    """The contents of a small regular file; raises FileNotFoundError, or UserError for one that cannot be read."""
    path = Path(path)
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, max_bytes) + 1)  # no more is allocated than there is
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        advice = "check its permissions" if isinstance(error, PermissionError) else "move it away"
        raise UserError(f"{path} cannot be read: {reason}; {advice}") from error
    if len(data) > max_bytes:
        raise UserError(f"{path} is too large: such a file has at most {max_bytes >> 20} MiB; move it away")
    return data


@functools.lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    # A model brings its own configuration.
    is_model = isinstance(kind, type) and hasattr(kind, "model_fields")
    return TypeAdapter(kind) if is_model else TypeAdapter(kind, config=ConfigDict(strict=True))


def parse_json(data: bytes | str, kind: Any) -> Any:
    """What a JSON text holds, as plain values, once it fits a type or a pydantic model; raises ValueError."""
    try:
        content = json.loads(data)
        _adapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"{place[:80]}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return content


def read_json(path: Path | str, kind: Any, max_bytes: int = MAX_RECORD) -> Any:
    """What a JSON file holds, as `parse_json` does; raises FileNotFoundError when it is missing, or UserError."""
    data = read_bytes(path, max_bytes)
    try:
        return parse_json(data, kind)
    except ValueError as error:  # among them what is not UTF-8
        raise UserError(f"{path} is damaged ({error})") from error


def read_json_lines(path: Path | str) -> list[dict[str, Any]]:
    """The lines of a file of JSON mappings, their values numbers, words or lists of these; raises as `read_json`."""
    found = []
    for number, line in enumerate(read_bytes(path, MAX_LINES).splitlines(), 1):
        try:
            if len(line) > MAX_LINE:
                raise ValueError("too long")
            found.append(parse_json(line, dict[str, Scalar | list[Scalar]]))
        except ValueError as error:
            raise UserError(f"{path} is damaged (line {number}: {error})") from error
    return found


# What a file is by how it begins, and what to do about it. People meet the first two most often.
BEGINNINGS = (
    (rb"version https://git-lfs", "a git-LFS pointer, a few lines that stand for the file: run `git lfs pull` there"),
    (
        rb"(?i)\s*<(!doctype html|html|\?xml|head)",
        "a web page, not the file: open the link in a browser, and download it",
    ),
    (rb"\x00{64}", "empty: it holds zeros, as an interrupted download leaves them; download it again"),
    (rb"PK", "a zip archive"),
    (rb"\x80", "a pickle"),
    (rb"\x93NUMPY", "a numpy array"),
    (
        rb"(?s).{8}\{\s*\"",
        "a safetensors file: load it with safetensors.torch.load_file, and torch.save what that returns",
    ),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!", "a packed archive: unpack it first"),
    (rb"(?s).{257}ustar", "a tar archive: unpack it first"),
    (rb"\x89HDF", "an HDF5 file, as Keras writes them"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|BM|II\*\x00|MM\x00\*", "a picture"),
)


def what_it_is(path: Path) -> str | None:
    """What a file is by its first bytes, in words, with what to do about it; None when that is unknown."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "empty: it has no bytes; copy or download it again"
    return next((words for pattern, words in BEGINNINGS if re.match(pattern, start)), None)


_DESCR = re.compile(r"'descr'\s*:\s*'([<>|=]?)([biufc])(\d{1,2})'")
_ORDER = re.compile(r"'fortran_order'\s*:\s*(True|False)\b")
_SHAPE = re.compile(r"'shape'\s*:\s*\(([\d,L\s]*)\)")


def map_array(path: Path | str) -> np.memmap[Any, Any]:
    """A .npy file of plain numbers, memory-mapped and not to be written to.

    Its header is no Python here: type, order and shape are looked for, and compared with the size of the file, before
    anything is allocated. Raises UserError for all that is not such a file.
    """
    path = Path(path)
    try:
        shape, kind, order, start = _read_header(path)
        return np.memmap(path, dtype=kind, mode="r", offset=start, shape=shape, order=order)  # type: ignore[call-overload]
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path} is not a readable .npy file ({error})") from error


def _read_header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], str, int]:
    with path.open("rb") as file:
        start = file.read(8)
        if start[:6] != b"\x93NUMPY" or len(start) < 8:
            is_what = what_it_is(path)
            raise ValueError(f"it is {is_what}" if is_what else "it does not begin as .npy files do")
        length_bytes = 2 if start[6] == 1 else 4
        length = int.from_bytes(file.read(length_bytes), "little")
        if length > MAX_HEADER:
            raise ValueError(f"its header would have {length} bytes")
        header = file.read(length).decode("latin1")
        offset, size = file.tell(), path.stat().st_size
    if "|O" in header or "'O'" in header:
        raise ValueError("it holds Python objects, which could run code; save plain numbers")
    found = [pattern.findall(header) for pattern in (_DESCR, _ORDER, _SHAPE)]
    if [len(matches) for matches in found] != [1, 1, 1]:
        raise ValueError("its header does not give the type, order and shape of plain numbers")
    kind = np.dtype("".join(found[0][0]))
    shape = tuple(int(number) for number in re.findall(r"\d+", found[2][0]))
    if math.prod(max(length, 1) for length in shape) > MAX_NUMBERS:
        raise ValueError(f"its header gives the shape {list(shape)}, which no file can fill")
    needed = math.prod(shape) * kind.itemsize
    if size - offset < needed:
        raise ValueError(
            f"its header gives the shape {list(shape)}, {needed:,} bytes, but {size - offset:,} follow; it is "
            "truncated or damaged"
        )
    if needed == 0:
        raise ValueError(f"it is of shape {list(shape)}, without a number in it")
    return shape, kind, "F" if found[1][0] == "True" else "C", offset
