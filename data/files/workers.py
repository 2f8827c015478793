"""Processes that decode images ahead of the steps that need them."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset

from data.files import pool
from data.files.decode import num_cores
from system.errors import UserError
from system.runtime import Runtime

PREFETCHED = 2  # steps that each worker has ready


def _decode(items: Dataset, numbers: range, num_workers: int, runtime: Runtime, num_bytes: int) -> Iterator[Any]:
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
