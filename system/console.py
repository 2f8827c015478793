"""What a person sees: a few plain lines, color where it helps, a progress bar only on a terminal."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from termcolor import colored
from tqdm import tqdm

from system import distributed
from system.streams import is_terminal, put
from system.text import one_line, shown

Item = TypeVar("Item")


def paint(text: str, color: str, stream: TextIO | None, attrs: Iterable[str] | None = None) -> str:
    """Text in a color, where the stream that it goes to is a terminal or the environment asks for color."""
    # termcolor's own answer is about stdout, whatever the stream, and is kept from the first call on.
    return colored(text, color, attrs=attrs, force_color=True) if _shows_color(stream) else text


def _shows_color(stream: TextIO | None) -> bool:
    if os.environ.get("ANSI_COLORS_DISABLED") or os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (os.environ.get("TERM") != "dumb" and is_terminal(stream))


def print_line(text: str, stream: TextIO | None, color: str | None = None) -> None:
    """Print one line, whoever asks: words from outside are escaped, and a very long line is cut in its middle."""
    text = one_line(text)
    put((paint(text, color, stream) if color else text) + "\n", stream)


def say(text: str, color: str | None = None) -> None:
    """Print one line on rank 0, above a running progress bar if there is one; a line break in it is escaped."""
    if distributed.is_main():
        print_line(text, sys.stdout, color)


def say_block(text: str) -> None:
    """Print a text of several lines on rank 0, such as a table."""
    for line in text.split("\n"):
        say(line)


def warn(text: str) -> None:
    """Print a warning on stderr, on rank 0."""
    if distributed.is_main():
        print_line(f"warning: {text}", sys.stderr, "yellow")


def progress(iterable: Iterable[Item], total: int | None = None, desc: str = "") -> Iterator[Item]:
    """Iterate with a progress bar on a terminal, in silence elsewhere and on other ranks."""
    hidden = not (is_terminal(sys.stderr) and distributed.is_main())
    return iter(tqdm(iterable, total=total, desc=shown(desc), leave=False, dynamic_ncols=True, disable=hidden))
