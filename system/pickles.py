"""Loading a checkpoint that somebody else may have written: tensors and numbers, and nothing is executed."""

import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import torch

from system.errors import UserError


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
            f"{path} is refused: it asks for '{foreign[1]}', which weights do not need, and none of it was "
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
