"""Processes that decode images: ahead of the steps that need them, or a whole list of files once."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset

from data.files import pool
from data.files.decode import read_square
from data.files.formats import BadImageError
from data.files.values import BY_IMAGE, Values
from system.console import progress
from system.distributed import num_cores
from system.errors import UserError
from system.runtime import Runtime

PREFETCHED = 2  # steps that each worker has ready


def decode_ahead(items: Dataset, numbers: range, num_workers: int, runtime: Runtime, num_bytes: int) -> Iterator[Any]:
    """Items in order, of `num_bytes` each, decoded by at most `num_workers` processes; 0 decodes in this one.

    Raises UserError when a worker dies.
    """
    num_workers = min(num_workers, num_cores(), len(numbers))
    through_pipes = num_workers * (1 + PREFETCHED) * num_bytes > _shared_memory()
    loader = DataLoader(
        items,
        batch_size=None,
        sampler=numbers,
        prefetch_factor=PREFETCHED if num_workers else None,
        collate_fn=_to_arrays if through_pipes and num_workers else None,
        pin_memory=runtime.device.type == "cuda",
        generator=torch.Generator(),  # leaves the global one alone
        **pool.options(num_workers),
    )
    try:
        for item in pool.start(loader):
            yield _to_tensors(item) if through_pipes and num_workers else item
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that decodes images died ({str(error).splitlines()[0]}); "
            "if memory is short, use a smaller num_workers"
        ) from error


def _shared_memory() -> int:
    """Free bytes of the memory through which tensors pass between processes; containers often have but 64 MB."""
    folder = Path("/dev/shm")
    return shutil.disk_usage(folder).free if folder.exists() else sys.maxsize


def _to_arrays(item: Any) -> Any:
    return tree_map(lambda value: value.numpy(), item)


def _to_tensors(item: Any) -> Any:
    return tree_map(torch.from_numpy, item)


class _Chunks(Dataset[Any]):
    """Item j: the squares of the j-th few files, and why some (by position in the whole list) are bad."""

    def __init__(self, paths: Sequence[str], side: int, values: Values) -> None:
        self.paths, self.side, self.values = paths, side, values
        self.length = max(1, min(64, 2**22 // (3 * side * side)))  # at most 4 MB a message

    def __len__(self) -> int:
        return -(-len(self.paths) // self.length)

    def __getitem__(self, chunk: int) -> tuple[np.ndarray[Any, Any], dict[int, str]]:
        first = chunk * self.length
        paths = self.paths[first : first + self.length]
        squares = np.zeros((len(paths), 3, self.side, self.side), dtype=np.uint8)
        bad = {}
        for i, path in enumerate(paths):
            try:
                squares[i] = read_square(path, self.side, self.values)
            except BadImageError as error:
                bad[first + i] = str(error)
        return squares, bad


def read_squares(
    paths: Sequence[str], side: int, values: Values = BY_IMAGE, desc: str = "reading images"
) -> Iterator[tuple[np.ndarray[Any, Any], dict[int, str]]]:
    """Read many files in parallel and in order, a few at a time, with a progress bar.

    Yields uint8 [n, 3, side, side], zeros where a file is bad, and a dict from its position in `paths` to the
    reason. Raises UserError when a decoder crashes. Processes, because threads are slower than none on small
    files; forked ones, so that scripts need no `__main__` guard; where a system cannot fork safely, one after
    the other.
    """
    chunks = _Chunks(paths, side, values)
    num_workers = min(num_cores(), 16, len(chunks)) if pool.CAN_FORK and len(chunks) > 1 else 0
    loader = DataLoader(
        chunks,
        batch_size=None,
        collate_fn=_same,  # arrays through a pipe, not tensors through /dev/shm, which is small in containers
        generator=torch.Generator(),  # leaves the global one alone
        **pool.options(num_workers),
    )
    try:
        yield from progress(pool.start(loader), total=len(chunks), desc=desc)
    except RuntimeError as error:
        raise UserError(f"a process that decodes images died: {error}") from error


def _same(item: Any) -> Any:
    return item
