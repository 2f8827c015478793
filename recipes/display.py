"""One progress display over all stages, with the time that is left, read from the runs' own metrics files."""

import contextlib
import io
import math
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from tqdm import tqdm

from system.bounded import read_json, read_json_lines
from system.console import print_line
from system.errors import UserError
from system.streams import is_terminal
from training.folder import METRICS
from training.record import RECORD, Record

LOOK_EVERY, SAY_EVERY = 0.5, 30.0  # seconds
NUM_MEASURED = 5  # epochs whose mean says how long the next one takes
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Work:
    """A stage to come: what it does in words, its run folder, its epochs, and the estimated seconds of one.

    A `timed` one ends when the minutes are over that were given.
    """

    title: str
    folder: Path
    epochs: int
    seconds: float
    timed: bool = False

    def lines(self) -> list[dict[str, Any]]:
        """What its metrics file holds so far, a mapping an epoch."""
        try:
            return read_json_lines(self.folder / METRICS)
        except (OSError, UserError):
            return []

    def epochs_done(self) -> int:
        """Epochs that the run has behind it: a finished one all, unless more were given since."""
        num_lines = len(self.lines())
        with contextlib.suppress(OSError, UserError):
            record = read_json(self.folder / RECORD, Record)
            if record["status"] == "finished" and (not num_lines or "ended" in (record.get("result") or {})):
                return self.epochs
        return min(num_lines, self.epochs)


def seconds_of(works: Iterable[Work]) -> float:
    """The estimated seconds of what is left of some stages."""
    return sum((work.epochs - work.epochs_done()) * work.seconds for work in works)


@dataclass(frozen=True)
class Sight:
    """How far the stages are: the share of all work that is done, 0..1, the seconds left, and the stage at work."""

    share: float
    left: float
    epoch: int
    epochs: int
    loss: float | None

    @property
    def words(self) -> str:
        """The stage's epoch, its last loss and the time left; after all stages, what is written is not estimated."""
        if self.left == 0:
            return "nearly done"
        loss = "" if self.loss is None else f", loss {self.loss:.4g}"
        epoch = f"epoch {self.epoch} of {self.epochs}{loss}, " if self.epochs > 1 else ""
        return f"{epoch}about {duration(self.left)} left"


class Clock:
    """Turns epochs done into seconds left.

    The seconds of each stage's epochs are estimated before. Once epochs of a stage were measured, the mean of the last
    few replaces its estimate; stages to come are expected to miss theirs by as much as the measured ones did. Timed
    stages end at a time, `ends`.
    """

    def __init__(self, works: list[Work], now: float, ends: float = math.inf) -> None:
        self.works, self.ends = works, ends
        self.done = [work.epochs_done() for work in works]
        self.changed = now
        self.measured: list[deque[float]] = [deque(maxlen=NUM_MEASURED) for _ in works]

    def seconds(self, number: int) -> float:
        """What an epoch of a stage takes, by what is known now."""
        if self.measured[number]:
            return sum(self.measured[number]) / len(self.measured[number])
        known = [i for i, work in enumerate(self.works) if self.measured[i] and work.seconds > 0]
        factors = [self.seconds(i) / self.works[i].seconds for i in known]
        return self.works[number].seconds * (sum(factors) / len(factors) if factors else 1.0)

    def look(self, now: float) -> Sight:
        """See how far the stages are."""
        for number, work in enumerate(self.works):
            new = work.epochs_done() - self.done[number]
            if new > 0:
                self.measured[number].extend([(now - self.changed) / new] * min(new, NUM_MEASURED))
            if new:
                self.done[number] += new
                self.changed = now
        seconds = [self.seconds(number) for number in range(len(self.works))]
        total = sum(work.epochs * each for work, each in zip(self.works, seconds, strict=True))
        behind = sum(done * each for done, each in zip(self.done, seconds, strict=True))
        unfinished = (i for i, work in enumerate(self.works) if self.done[i] < work.epochs)
        at_work = next(unfinished, None)
        ahead = 0.0 if at_work is None else min(now - self.changed, 0.95 * seconds[at_work])  # within an epoch
        left = max(total - behind - ahead, 0.0)
        untimed = sum(
            (work.epochs - done) * each
            for work, done, each in zip(self.works, self.done, seconds, strict=True)
            if not work.timed
        )
        left = min(left, max(self.ends - now, untimed))
        total = behind + ahead + left
        work = self.works[-1 if at_work is None else at_work]
        lines = work.lines()
        loss = lines[-1].get("loss") if lines else None
        epoch = work.epochs if at_work is None else self.done[at_work] + 1
        known_loss = loss if isinstance(loss, int | float) else None
        return Sight(1 - left / total if total else 1.0, left, epoch, work.epochs, known_loss)


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Display:
    """A context in which stages run: they speak to a log file, a bar shows how far all of them are.

    A warning is shown too, each kind once, and at the end of the stage as it was said last. Without a terminal a line
    is printed every half minute. After `most` seconds the timed stages end.
    """

    def __init__(self, works: list[Work], log: Path, most: float = math.inf) -> None:
        self.works, self.log_path, self.most = works, log, most
        self.out, self.err = sys.stdout, sys.stderr
        self.title = ""
        self._ended = threading.Event()
        self._shown: dict[str, str] = {}  # by kind: the warning that was shown
        self._latest: dict[str, tuple[str, int]] = {}  # by kind: what a stage said last, and how often after the first

    def __enter__(self) -> Self:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log = self.log_path.open("a", encoding="utf-8", errors="backslashreplace")
        self._clock = Clock(self.works, time.monotonic(), time.monotonic() + self.most)
        # tqdm sets a comma before a postfix: the words stand where it has its unit.
        form = "{desc} {percentage:3.0f}%|{bar}| {unit}"
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
        try:
            with contextlib.redirect_stdout(to_log), contextlib.redirect_stderr(to_log):
                yield
        finally:
            for kind, (text, times) in self._latest.items():
                if text != self._shown[kind]:
                    print_line(f"{text} (the last of {times + 1} such warnings)", self.err)
            self._latest.clear()

    def end(self, works: Collection[Work]) -> None:
        """Count what is left of some stages as nothing."""
        for number, work in enumerate(self.works):
            if work in works:
                self.works[number] = replace(work, epochs=work.epochs_done())

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        print_line(text, self.out)

    def _show_warning(self, text: str) -> None:
        kind = re.sub(r"\d+", "#", text)
        if kind in self._shown:
            self._latest[kind] = text, self._latest.get(kind, ("", 0))[1] + 1
        else:
            self._shown[kind] = text
            print_line(text, self.err)

    def _watch(self) -> None:
        said = time.monotonic()
        while self.works and not self._ended.wait(LOOK_EVERY):
            seen = self._clock.look(time.monotonic())
            self._bar.set_description_str(self.title, refresh=False)
            self._bar.unit = seen.words
            self._bar.n = min(seen.share, 1.0)
            self._bar.refresh()
            if self._bar.disable and time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                self.line(f"{self.title}: {seen.words} ({100 * seen.share:.0f} % of all)")


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
