"""What a person sees: a few plain lines, colour where it helps, a progress bar only on a terminal."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from termcolor import colored
from tqdm import tqdm

from system import distributed

Item = TypeVar("Item")


def paint(text: str, color: str, stream: TextIO, attrs: Iterable[str] | None = None) -> str:
    """Text in a color, where the stream that it goes to is a terminal or the environment asks for color."""
    # termcolor's own answer is about stdout, whatever the stream, and is kept from the first call on.
    return colored(text, color, attrs=attrs, force_color=True) if _shows_color(stream) else text


def _shows_color(stream: TextIO) -> bool:
    if os.environ.get("ANSI_COLORS_DISABLED") or os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (os.environ.get("TERM") != "dumb" and stream.isatty())


def say(text: str, color: str | None = None) -> None:
    """Print one line on rank 0, above a running progress bar if there is one."""
    if distributed.is_main():
        tqdm.write(paint(text, color, sys.stdout) if color else text)
        sys.stdout.flush()


def warn(text: str) -> None:
    """Print a warning on stderr, on rank 0."""
    if distributed.is_main():
        tqdm.write(paint(f"warning: {text}", "yellow", sys.stderr), file=sys.stderr)
        sys.stderr.flush()


def progress(iterable: Iterable[Item], total: int | None = None, desc: str = "") -> Iterator[Item]:
    """Iterate with a progress bar on a terminal, in silence elsewhere and on other ranks."""
    hidden = not (sys.stderr.isatty() and distributed.is_main())
    return iter(tqdm(iterable, total=total, desc=desc, leave=False, dynamic_ncols=True, disable=hidden))
