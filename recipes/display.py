"""One progress display over all stages, with the time that is left, told from the runs' own metrics files."""

import contextlib
import io
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

from system.console import print_line
from system.streams import is_terminal

LOOK_EVERY, SAY_EVERY = 0.5, 30.0  # seconds
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Work:
    """A stage to come: what it does in words, its run folder, its epochs, and the estimated seconds of one."""

    title: str
    folder: Path
    epochs: int
    seconds: float

    def epochs_done(self) -> int:
        """Epochs that the run has behind it."""
        try:
            if json.loads((self.folder / "run.json").read_text(encoding="utf-8")).get("status") == "finished":
                return self.epochs
            return min((self.folder / "metrics.jsonl").read_bytes().count(b"\n"), self.epochs)
        except (OSError, ValueError):
            return 0


class Clock:
    """Turns epochs done into seconds left: estimates at first, then corrected by what epochs really took."""

    def __init__(self, works: list[Work], now: float) -> None:
        self.works = works
        self.total = sum(work.epochs * work.seconds for work in works)
        self.first = self.done = self._measure()
        self.started = self.changed = now

    def _measure(self) -> float:
        return sum(work.epochs_done() * work.seconds for work in self.works)

    def look(self, now: float) -> tuple[float, float]:
        """The share of the work that is done, 0..1, and the seconds that are left, about."""
        done = self._measure()
        if done != self.done:
            self.done, self.changed = done, now
        worked = self.done - self.first
        factor = (self.changed - self.started) / worked if worked > 0 else 1.0
        since = (now - self.changed) / max(factor, 1e-9)
        current = next((work for work in self.works if work.epochs_done() < work.epochs), None)
        ahead = min(since, 0.95 * current.seconds) if current else 0.0  # within an epoch the time tells
        left = max(self.total - self.done - ahead, 0.0)
        return (1 - left / self.total if self.total else 1.0), left * factor


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Display:
    """A context in which stages run: they speak to a log file, a bar shows how far all of them are.

    A warning is shown too, each kind once. Without a terminal a line is printed every half minute.
    """

    def __init__(self, works: list[Work], log: Path) -> None:
        self.works, self.log_path = works, log
        self.out, self.err = sys.stdout, sys.stderr
        self.title = ""
        self._ended = threading.Event()
        self._shown: set[str] = set()

    def __enter__(self) -> Self:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log = self.log_path.open("a", encoding="utf-8", errors="backslashreplace")
        self._clock = Clock(self.works, time.monotonic())
        form = "{desc} {percentage:3.0f}%|{bar}|{postfix}"
        tty = is_terminal(self.err)
        self._bar = tqdm(total=1.0, file=self.err, bar_format=form, dynamic_ncols=True, leave=False, disable=not tty)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self._bar.close()
        with contextlib.suppress(OSError):  # a full disk: what else was to be written says so itself
            self._log.close()

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Let a stage speak to the log, and show its title."""
        self.title = title
        to_log = _Log(self._log, self._show_warning)
        with contextlib.redirect_stdout(to_log), contextlib.redirect_stderr(to_log):
            yield

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        print_line(text, self.out)

    def _show_warning(self, text: str) -> None:
        kind = re.sub(r"\d+", "#", text)
        if kind not in self._shown:
            self._shown.add(kind)
            print_line(text, self.err)

    def _watch(self) -> None:
        said = time.monotonic()
        while not self._ended.wait(LOOK_EVERY):
            share, left = self._clock.look(time.monotonic())
            self._bar.set_description_str(self.title, refresh=False)
            self._bar.set_postfix_str(f"about {duration(left)} left", refresh=False)
            self._bar.n = min(share, 1.0)
            self._bar.refresh()
            if self._bar.disable and time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                self.line(f"{self.title}: {100 * share:.0f} % of all, about {duration(left)} left")


class _Log(io.TextIOBase):
    """A text file that hands warnings on."""

    def __init__(self, file: TextIO, warn: Callable[[str], None]) -> None:
        self._file, self._warn, self._line = file, warn, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        plain = ANSI.sub("", text)
        self._file.write(plain)
        self._line += plain
        *lines, self._line = self._line.split("\n")
        for line in lines:
            if line.startswith("warning:"):
                self._warn(line)
        return len(text)

    def flush(self) -> None:
        self._file.flush()
