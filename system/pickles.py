"""Loading a checkpoint that somebody else may have written: tensors and numbers, and nothing is executed."""

import copy
import io
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from system import files
from system.errors import UserError
from system.text import shown


class _NumpyType:
    """Stands in for numpy.dtype: the code and byte order of a number, nothing else that a dtype can be."""

    # numpy's code: struct's
    FORMATS: ClassVar[dict[str, str]] = {
        **{"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q"},
        **{"u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f2": "e", "f4": "f", "f8": "d"},
    }

    def __init__(self, code: str, align: bool = False, copy: bool = True):
        self.format = self.FORMATS[code]
        self.order = "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = {"<": "<", ">": ">", "|": "<"}[state[1]]


def _numpy_scalar(kind: _NumpyType, data: bytes) -> Any:
    """Stand in for numpy's constructor of scalars, and return a Python number."""
    (value,) = struct.unpack(kind.order + kind.format, data)
    return value


# numpy's own functions take structured and object types from a file, which point anywhere in memory; these do
# not. The first name is in files written before numpy 2, the second in those written since.
SAFE_GLOBALS: list[Any] = [
    (_numpy_scalar, "numpy.core.multiarray.scalar"),
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
    (_NumpyType, "numpy.dtype"),
]


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, PermissionError):
        return UserError(f"{path} cannot be read: {error.strerror}; check whose file it is")
    foreign = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if foreign:
        return UserError(
            f"{path} is refused: it asks for '{shown(foreign[1])}', which weights do not need, and none of it was "
            "executed; get the file from a source you trust, or save its state_dict alone"
        )
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" or start[:1] == b"\x80":
        return UserError(f"{path} is truncated or damaged: PyTorch cannot read it; copy or download it again")
    return UserError(f"{path} is not a PyTorch checkpoint; give a file such as model.pth.tar")


def load_untrusted(path: Path, verified: bool = False) -> Any:
    """Load what a PyTorch file holds, onto the CPU, with numpy's scalars as Python numbers.

    `verified` says that the whole file was compared with its recorded checksum; otherwise that of a zip file
    is checked here, which torch.load does not do. Raises UserError for whatever is wrong with the file.
    """
    try:
        if not verified and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(damaged)
        with warnings.catch_warnings(), torch.serialization.safe_globals(SAFE_GLOBALS):
            warnings.simplefilter("ignore")  # of odd pickles; they are refused below or harmless
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or damaged file can raise anything here
        raise _unreadable(path, error) from error


class _Type:
    """Stands in for numpy.dtype: whole numbers, and nothing else that a dtype can be."""

    CODES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")

    def __init__(self, code: str = "", *_: Any) -> None:
        self.code, self.order = {"uint8": "u1"}.get(code, code), "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = {">": ">"}.get(state[1], "<")

    def read(self, data: str | bytes) -> np.ndarray[Any, Any]:
        if self.code not in self.CODES:
            raise pickle.UnpicklingError(f"an array of type {self.code!r} where whole numbers are expected")
        return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype=self.order + self.code)


def _scalar(kind: _Type, data: str | bytes) -> int:
    """Stands in for what rebuilds one of numpy's numbers."""
    return int(kind.read(data)[0])


class _Array:
    """Stands in for numpy.ndarray and the functions that rebuild one."""

    value: np.ndarray[Any, Any] | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        self._fill(data, kind, shape, "F" if fortran else "C")

    def _fill(self, data: str | bytes, kind: _Type, shape: tuple[int, ...], order: str) -> None:
        flat = kind.read(data)
        self.value = flat.reshape(shape[::-1]).T if order == "F" else flat.reshape(shape)


class _FromBuffer(_Array):
    """Stands in for what pickle protocol 5 calls."""

    def __init__(self, data: bytes, kind: _Type, shape: tuple[int, ...], order: str) -> None:
        self._fill(data, kind, shape, order)


class _Latin1(bytes):
    """Stands in for `_codecs.encode`, with which newer Pythons write bytes to old protocols."""

    def __new__(cls, text: str, encoding: str) -> "_Latin1":
        return super().__new__(cls, text.encode("latin1"))

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("bytes have no state")


class RestrictedUnpickler(pickle.Unpickler):
    """Reads numbers, strings, lists, dicts and arrays of whole numbers; raises UnpicklingError for all else."""

    ALLOWED: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("numpy", "dtype"): _Type,
        ("numpy", "ndarray"): _Array,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy.core.numeric", "_frombuffer"): _FromBuffer,
        ("numpy._core.numeric", "_frombuffer"): _FromBuffer,
        ("numpy.core.multiarray", "scalar"): _scalar,
        ("numpy._core.multiarray", "scalar"): _scalar,
        ("_codecs", "encode"): _Latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a known name; nothing is ever imported."""
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs") from None


def on_cpu(state: Any) -> Any:
    """A nest of mappings with its tensors on the CPU."""
    if isinstance(state, dict):
        moved = copy.copy(state)  # keeps a state_dict what it is, with its versions of modules
        moved.update({key: on_cpu(value) for key, value in state.items()})
        return moved
    return state.cpu() if isinstance(state, torch.Tensor) else state


def write_torch(path: Path | str, state: Any, *, keep: str | None = None, **facts: Any) -> None:
    """Write a PyTorch file, recorded; `keep` is the name that the file which was there before takes."""
    # In memory first: torch.save hides a full disk behind an error of its own, and the size is known before writing.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()
    files.write_file(path, lambda file: file.write(data), num_bytes=len(data), keep=keep, **facts)
