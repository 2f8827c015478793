"""What a person sees: a few plain lines, colour where it helps, a progress bar only on a terminal."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from termcolor import colored
from tqdm import tqdm

from utils import distributed

Item = TypeVar("Item")


def say(text: str, color: str | None = None) -> None:
    """Print one line on rank 0, above a running progress bar if there is one."""
    if distributed.is_main():
        tqdm.write(colored(text, color) if color else text)
        sys.stdout.flush()


def warn(text: str) -> None:
    """Print a warning on stderr, on rank 0."""
    if distributed.is_main():
        tqdm.write(colored(f"warning: {text}", "yellow", force_color=None), file=sys.stderr)
        sys.stderr.flush()


def progress(iterable: Iterable[Item], total: int | None = None, desc: str = "") -> Iterator[Item]:
    """Iterate with a progress bar on a terminal, in silence elsewhere and on other ranks."""
    hidden = not (sys.stderr.isatty() and distributed.is_main())
    return iter(tqdm(iterable, total=total, desc=desc, leave=False, dynamic_ncols=True, disable=hidden))
