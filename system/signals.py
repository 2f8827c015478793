"""SIGINT, SIGTERM and SIGHUP: every one is answered, and none where the answer would be lost.

Python calls a signal's handler between any two instructions of the main thread. What the handler raises is lost in a
hook of `os.fork`, in a `__del__`, in a weakref's callback: Python prints "Exception ignored in" and goes on. So
handlers wait while processes are started (`held`), what was swallowed is raised again a moment later, and `exit_code`
has the last word.
"""

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

SIGTERM = signal.SIGTERM
HANGUP = getattr(signal, "SIGHUP", None)
"""The terminal was closed, or the connection to it is lost; Windows has no such signal."""
STOPPING = (signal.SIGINT, SIGTERM, *([HANGUP] if HANGUP else []))
RAISED_AGAIN = 0.05  # seconds after an answer was swallowed

Handler = Callable[[int, bool], None]


class Stopped(SystemExit):
    """A signal ends the process; the code is 128 plus its number."""


def stop(number: int, again: bool) -> None:
    """Unwind the process, so that it tidies up; a second signal ends it at once."""
    if again:
        leave(number, again)
    raise Stopped(128 + number)


def leave(number: int, again: bool) -> None:
    """End the process at once: nothing is left to tidy up."""
    for stream in (sys.stdout, sys.stderr):
        # Absent, closed, full, or just in the middle of a write: in every case nobody reads it.
        with contextlib.suppress(AttributeError, ValueError, OSError, RuntimeError):
            stream.flush()
    os._exit(128 + number)


@dataclass
class _State:
    handler: Handler = stop
    sections: list[int] = field(default_factory=list)  # a thread each that starts processes at the moment
    waiting: list[int] = field(default_factory=list)  # signals that came meanwhile
    heard: int = 0  # the first signal that was handled
    swallowed: bool = False  # and its answer was lost


_state = _State()


def catch(handler: Handler = stop) -> None:
    """Answer the signals by `handler(number, again)` from now on; `again` says that one came before.

    The handler raises `Stopped` to unwind. Nothing happens outside the main thread, where Python allows no handlers.
    What `nohup` started goes on without a terminal.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in STOPPING:
        if number != HANGUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _receive)
    _state.handler, _state.heard, _state.swallowed = handler, 0, False
    _state.waiting.clear()
    if sys.unraisablehook is not _rescue:
        _others.append(sys.unraisablehook)
        sys.unraisablehook = _rescue


@contextlib.contextmanager
def caught(handler: Handler) -> Iterator[None]:
    """Answer the signals by `handler` within, and as before afterwards."""
    old = [(number, signal.getsignal(number)) for number in STOPPING], _state.handler
    catch(handler)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, before in old[0]:
                signal.signal(number, before)
            _state.handler = old[1]


def exit_code(code: int) -> int:
    """The code that a process ends with: that of a signal that was handled, also where its answer was lost."""
    return 128 + _state.heard if _state.heard else code


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Start processes within: signals are handled afterwards, and the processes are born deaf to them.

    Ctrl-C and schedulers signal every process of a group; a worker goes on until the run has saved its step.
    """
    # The mask is what children inherit. It does not keep signals from other threads, such as those of OpenMP, and so
    # from Python's handler: that looks at the sections.
    _state.sections.append(threading.get_ident())
    mask = block()
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _state.sections.pop()
        while _state.waiting and not _state.sections:
            signal.raise_signal(_state.waiting.pop(0))


def block() -> set[Any] | None:
    """Keep the signals from this thread and from the processes that it starts; returns the mask before."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows has none
        return None
    return signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)


def _receive(number: int, frame: Any) -> None:
    if number == HANGUP and _state.heard and not _state.swallowed:
        return  # no second request: the shell says it, and once more the system
    if _state.sections:
        _state.waiting.append(number)
        return
    again = bool(_state.heard) and not _state.swallowed
    _state.heard, _state.swallowed = _state.heard or number, False
    _state.handler(number, again)


_others: list[Any] = []


def _rescue(unraisable: Any) -> None:
    """What Python calls in place of raising: an answer to a signal is not to be lost there."""
    if not issubclass(unraisable.exc_type, Stopped):
        _others[-1](unraisable)
        return
    _state.swallowed = True
    _thread.start_new_thread(_send_again, (_state.heard,))  # no lock of `threading`, which may be held right here


def _send_again(number: int) -> None:
    time.sleep(RAISED_AGAIN)
    os.kill(os.getpid(), number)
