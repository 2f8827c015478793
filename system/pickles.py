"""Loading an untrusted checkpoint: tensors and numbers, and nothing is executed."""

import copy
import io
import mmap
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch

from system import files
from system.bounded import what_it_is
from system.errors import UserError, out_of_memory
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


class RefusedError(Exception):
    """A file is left unread, for a reason that its message gives: what follows 'it is refused'."""


MAX_BYTES = 16 << 30  # of a PyTorch file: the largest backbones, with an optimizer's state
MAX_ENTRIES, MAX_DIRECTORY = 20_000, 8 << 20  # of a zip file, and bytes of its list of them
MAX_PICKLE = 64 << 20  # bytes of the pickle inside, without its tensors
MAX_OPCODES = 500_000  # of a model's pickle: about thirty a tensor
MAX_OPCODES_OF_LISTS = 4_000_000  # of a pickle that holds a label and a name for every image
LEGACY_PICKLES = 5  # of a PyTorch file from before its zip format: tensors' bytes follow them

MEMO = ("PUT", "BINPUT", "LONG_BINPUT")  # opcodes that number an object
# Known to torch's own reader of weights, though they make as much as a number asks for.
ALLOCATING = re.compile(r"(__builtin__|builtins) bytearray|torch(\.\S+)? (\w*Tensor|UntypedStorage|TypedStorage)")


def check_opcodes(file: Any, max_opcodes: int, num_pickles: int = 1) -> None:
    """Go through pickles without doing what they say; raises RefusedError where that could fill the memory.

    One byte of a pickle can make an object of a hundred; a number in it can make the unpickler's memo as large as it
    says; and functions that are harmless otherwise allocate as much as their argument says.
    """
    num_opcodes = 0
    for _ in range(num_pickles):
        for opcode, argument, _ in pickletools.genops(file):
            num_opcodes += 1
            if num_opcodes > max_opcodes:
                raise RefusedError(f"its pickle has more than {max_opcodes:,} steps, which no such file needs")
            if opcode.name in MEMO and isinstance(argument, int) and argument > max_opcodes:
                raise RefusedError("its pickle numbers objects that it does not have")
            if opcode.name == "GLOBAL" and ALLOCATING.fullmatch(str(argument)):
                raise pickle.UnpicklingError(f"GLOBAL {str(argument).replace(' ', '.')}")


def _directory(file: BinaryIO, size: int) -> tuple[int, int]:
    """How many entries a zip file says that it has, and how many bytes their list takes."""
    file.seek(max(0, size - 42))
    end = file.read(42)
    signature, *_, num_entries, num_bytes, _, comment = struct.unpack("<4s4H2LH", end[-22:])
    if signature != b"PK\5\6" or comment:
        raise zipfile.BadZipFile("it does not end as a zip file does")
    if len(end) == 42 and end[:4] == b"PK\6\7":  # a larger form, which PyTorch always writes
        (place,) = struct.unpack("<8xQ4x", end[:20])
        file.seek(min(place, size))
        (_, *_, more_entries, more_bytes, _) = struct.unpack("<4sQ2H2L4Q", file.read(56))
        return max(more_entries, num_entries % 0xFFFF), max(more_bytes, num_bytes % 0xFFFFFFFF)
    return num_entries, num_bytes


def _check_archive(path: Path, verified: bool) -> None:
    """Raise RefusedError for a zip file that is larger inside than outside, BadZipFile for one that is damaged."""
    size = path.stat().st_size
    with path.open("rb") as file:
        num_entries, num_bytes = _directory(file, size)
    if num_entries > MAX_ENTRIES or num_bytes > MAX_DIRECTORY:
        raise RefusedError(f"it is a zip file of {num_entries:,} entries; a model has at most {MAX_ENTRIES:,}")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise RefusedError(
                    "it is a zip file with compressed entries, which PyTorch does not write and which may take any "
                    "amount of memory"
                )
        if sum(entry.file_size for entry in entries) > size:
            raise RefusedError("it is a zip file whose entries are larger together than the file")
        names = [entry.filename.lower() for entry in entries]
        if len(set(names)) < len(names):
            raise RefusedError("it is a zip file with two entries of one name")
        if any(name.endswith("/constants.pkl") for name in names):
            raise RefusedError("it is a TorchScript program; save the state_dict of the model it was made from")
        for entry in entries:
            if entry.filename.lower().endswith(".pkl"):
                if entry.file_size > MAX_PICKLE:
                    raise RefusedError(
                        f"its pickle has {entry.file_size >> 20} MiB, at most {MAX_PICKLE >> 20} are read"
                    )
                check_opcodes(archive.read(entry), MAX_OPCODES)
        # torch.load does not look at the checksums.
        damaged = None if verified else archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)


def _check_before_loading(path: Path, verified: bool) -> None:
    with path.open("rb") as file:
        start = file.read(4)
        if path.stat().st_size > MAX_BYTES:
            raise RefusedError(f"it has {path.stat().st_size / 2**30:.0f} GiB; at most {MAX_BYTES >> 30} are read")
        if start[:1] == b"\x80":
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                check_opcodes(data, MAX_OPCODES, LEGACY_PICKLES)
        elif start[:2] == b"PK":
            _check_archive(path, verified)
        else:
            raise RefusedError("")


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, PermissionError):
        return UserError(f"{path} cannot be read: {error.strerror}; check its permissions")
    foreign = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if foreign:
        return UserError(
            f"{path} is refused: it asks for '{shown(foreign[1])}', which weights do not need, and none of it was "
            "executed; get the file from a source you trust, or save its state_dict alone"
        )
    if isinstance(error, RefusedError) and str(error):
        return UserError(f"{path} is refused: {error}")
    what = what_it_is(path)
    if what is None or not what.startswith(("a zip", "a pickle")):
        return UserError(
            f"{path} is not a PyTorch checkpoint" + (f" but {what}" if what else "; give a file such as model.pth.tar")
        )
    return UserError(f"{path} is truncated or damaged: PyTorch cannot read it; copy or download it again")


def load_untrusted(path: Path, verified: bool = False) -> Any:
    """Load what a PyTorch file holds, onto the CPU, with numpy's scalars as Python numbers.

    It costs no more memory than the file is large, and some. `verified` says that the whole file was compared with its
    recorded checksum; otherwise that of a zip file is checked here, which torch.load does not do. Raises UserError for
    whatever is wrong with the file.
    """
    try:
        _check_before_loading(path, verified)
        with warnings.catch_warnings(), torch.serialization.safe_globals(SAFE_GLOBALS):
            warnings.simplefilter("ignore")  # of odd pickles; they are refused below or harmless
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or damaged file can raise anything here
        if out_of_memory(error):
            raise
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
