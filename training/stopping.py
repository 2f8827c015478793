"""When a run saves or stops between two steps: at a signal, when its minutes are over, or because it is time to save.

All ranks come to the same answer, so that none waits for another one that has left.
"""

import contextlib
import os
import time
from collections.abc import Callable
from typing import NoReturn

from system import distributed, signals
from system.console import warn

AGREE_EVERY = 8  # steps between two moments at which several ranks agree


class Stopping:
    """What a run asks between its steps. `words` says, when a signal ends it, what is kept and how to go on."""

    def __init__(self, minutes: float | None, save_every: float, words: Callable[[], str]) -> None:
        self.minutes, self.save_every, self.words = minutes, save_every, words
        self.steps_are_taken = False
        """While they are, a signal waits for the step to be whole."""
        self._signal = 0
        self._saved_at = time.monotonic()

    def catch_signals(self) -> None:
        """Answer SIGINT, SIGTERM and SIGHUP from now on."""

        def handle(number: int, again: bool) -> None:
            if again:  # a second signal ends at once; files are whole at every instant
                os._exit(128 + number)
            self._signal = number
            if not self.steps_are_taken:
                self.leave()

        signals.catch(handle)

    def agrees_after(self, num_steps: int) -> bool:
        """Whether the ranks agree after so many steps; one process can at any time."""
        return distributed.world_size() == 1 or num_steps % AGREE_EVERY == 0

    def signalled(self) -> bool:
        """Whether a signal came to any rank."""
        return distributed.any_rank(bool(self._signal))

    def is_late(self, seconds: float) -> bool:
        """Whether a run of so many seconds has used up its minutes."""
        return self.minutes is not None and distributed.from_main(seconds > 60 * self.minutes)

    def save_is_due(self) -> bool:
        """Whether the last checkpoint is old."""
        return distributed.from_main(time.monotonic() - self._saved_at > 60 * self.save_every)

    def saved(self) -> None:
        """A checkpoint was written just now."""
        self._saved_at = time.monotonic()

    def leave(self) -> NoReturn:
        """End the process as the signal asks."""
        with contextlib.suppress(RuntimeError):  # the signal came in the middle of a write to the same stream
            warn(self.words())
        raise signals.Stopped(128 + (self._signal or signals.SIGTERM))
