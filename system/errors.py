"""Errors that a user can fix: one sentence (what, where, what to do) and an exit code, never a traceback."""

import re

from system.text import one_line


class UserError(Exception):
    """A run cannot continue: a data set, model or neighbor file is missing or does not fit, a device is absent."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        if message.startswith("Caught ") and "in DataLoader worker" in message:  # a worker's, handed on as a traceback
            message = message.rpartition(f"{type(self).__name__}: ")[2].strip()
        super().__init__(one_line(message))  # file names, keys and words of a command line may hold anything


class ConfigError(UserError):
    """The command line or the config itself is wrong."""

    exit_code = 2


class NothingConfidentError(UserError):
    """Self-labeling has nothing to learn from: no image is as confident as it demands."""


class TimeOverError(UserError):
    """A run stopped where its time was over; the same command with more time continues it."""


# What allocators say when memory is full, besides Python's MemoryError and torch's error for a device.
_HOST_IS_FULL = re.compile(r"DefaultCPUAllocator|an(?:no|')t allocate memory|not enough memory|bad_alloc")
_DEVICE_IS_FULL = re.compile(r"MPS backend out of memory|CUDA error: out of memory|STATUS_ALLOC_FAILED")
_WANTED = re.compile(r"allocate (?:(\d+) bytes|([\d.,]+ ?[KMGTP]i?B))")


def out_of_memory(error: BaseException) -> str | None:
    """One sentence where an error says that the memory of the machine or of its device is full; None for any other."""
    text = str(error)
    is_torchs = type(error).__name__ == "OutOfMemoryError"  # which is not imported only for this
    on_device = is_torchs or (isinstance(error, RuntimeError) and _DEVICE_IS_FULL.search(text))
    on_host = isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _HOST_IS_FULL.search(text))
    if not on_device and not on_host:
        return None
    found = _WANTED.search(text)
    size = found and (found[2] or f"{int(found[1]) / 1e9:.3g} GB")
    wanted = f" ({size} more were needed)" if size else ""
    whose = "the device's memory" if on_device else "the machine's memory"
    return (
        f"{whose} is full{wanted}; use a smaller batch_size, eval_batch_size or crop_size, or a smaller network "
        "(width, features_dim, num_heads)"
    )
