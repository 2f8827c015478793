"""A signal ends a program with 128 plus its number, wherever it comes."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from system import signals
from system.files import REPOSITORY
from tests import processes

pytestmark = pytest.mark.slow
BOTH = pytest.mark.parametrize("number", signals.STOPPING)

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from utils import cli

number, folder = int(sys.argv[1]), Path(sys.argv[2])
def send():
    os.kill(os.getpid(), number)

def main(argv):
{body}
    (folder / "went_on").touch()
    return 0

sys.exit(cli.run(main))
"""


def ends(tmp_path, number, body):
    """The exit code of a program, what it said, and whether it went on to its end."""
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    code, said = processes.finish(PROGRAM.replace("{body}", indented), int(number), tmp_path)
    return code, said, (tmp_path / "went_on").exists()


WAIT = """
for _ in range(600):
    time.sleep(0.1)
"""
DECODE = """
from data.files.workers import read_squares
from PIL import Image
for i in range(130):
    Image.new("RGB", (8, 8)).save(folder / f"{i}.png")
list(read_squares([str(folder / f"{i}.png") for i in range(130)], 8))
"""
IN_A_FORK = ["before", "after_in_parent"]
SWALLOWED = {
    "a __del__": f"""
class Loader:
    def __del__(self):
        send()
Loader()
{WAIT}""",
    "a weakref's callback": f"""
import weakref
class Loader:
    pass
loader = Loader()
reference = weakref.ref(loader, lambda _: send())
del loader
{WAIT}""",
}


@BOTH
@pytest.mark.parametrize("hook", IN_A_FORK)
def test_while_a_process_is_forked(tmp_path, number, hook):
    """Python itself forks a process for images here, and calls the hooks in which exceptions are lost."""
    code, said, went_on = ends(tmp_path, number, f"os.register_at_fork({hook}=send)\n{DECODE}")
    assert (code, went_on) == (128 + number, False)
    assert "ignored" not in said and "Traceback" not in said


@BOTH
@pytest.mark.parametrize("place", SWALLOWED)
def test_where_python_swallows_what_is_raised(tmp_path, number, place):
    assert ends(tmp_path, number, SWALLOWED[place]) == (128 + number, "", False)


@BOTH
def test_where_code_swallows_what_is_raised(tmp_path, number):
    """Nobody can stop such a program, but it does not say that all is well."""
    body = "try:\n    send()\n    time.sleep(60)\nexcept BaseException:\n    pass"
    assert ends(tmp_path, number, body) == (128 + number, "", True)


@BOTH
def test_when_all_is_done(tmp_path, number):
    body = "import atexit\natexit.register(send)\nprint('the result')"
    assert ends(tmp_path, number, body) == (128 + number, "the result\n", True)


def test_an_error_in_a_del_is_told_as_ever(tmp_path):
    code, said, went_on = ends(tmp_path, 15, "class A:\n    def __del__(self):\n        raise ValueError(7)\nA()")
    assert (code, went_on) == (0, True)
    assert "ValueError: 7" in said


def test_a_second_signal_ends_at_once(tmp_path):
    body = f"try:\n    send()\nfinally:\n    send()\n    (folder / 'tidied').touch()\n{WAIT}"
    assert ends(tmp_path, signal.SIGTERM, body) == (143, "", False)
    assert not (tmp_path / "tidied").exists()


def test_a_second_hangup_is_the_same_one(tmp_path):
    """A shell tells its jobs, and ends; the system then tells them again."""
    body = f"try:\n    send()\nfinally:\n    send()\n    (folder / 'tidied').touch()\n{WAIT}"
    assert ends(tmp_path, signal.SIGHUP, body) == (129, "", False)
    assert (tmp_path / "tidied").exists()


def test_under_nohup_a_hangup_is_none():
    with signals.caught(lambda number, again: pytest.fail("heard")):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with signals.caught(lambda number, again: pytest.fail("heard")):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


ON_A_TERMINAL = """
import fcntl, sys, termios, time
from pathlib import Path
from system import signals
from system.console import progress, say
from utils import cli

fcntl.ioctl(0, termios.TIOCSCTTY, 0)

def main(argv):
    heard = []
    signals.catch(lambda number, again: heard.append(number))
    for number in progress(range(10_000)):
        if number == 10:
            say("at work")
        if heard and len(heard) < 50:
            heard.append(0)
        elif heard:
            say("saved")
            Path(sys.argv[1]).touch()
            break
        time.sleep(0.01)
    return 0

sys.exit(cli.run(main))
"""


def test_a_terminal_that_is_closed_ends_a_program_in_order(tmp_path):
    """Its progress bar and what it says lead nowhere then, and do not keep it from the end of its step."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", ON_A_TERMINAL, str(tmp_path / "saved")]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, **streams)
    os.close(theirs)
    seen = b""
    while b"at work" not in seen:
        seen += os.read(ours, 1024)
    os.close(ours)
    assert process.wait(processes.PATIENCE) == 129
    assert (tmp_path / "saved").exists()


def test_held_signals_are_handled_in_their_order(monkeypatch):
    heard = []
    with signals.caught(lambda number, again: heard.append((number, again))):
        with signals.held():
            with signals.held():
                os.kill(os.getpid(), signal.SIGTERM)
                signal.raise_signal(signal.SIGINT)
            assert heard == []
        assert sorted(heard) == [(2, heard[0][0] != 2), (15, heard[0][0] != 15)]
        assert signals.exit_code(0) == 128 + heard[0][0]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(signals.STOPPING)


def test_a_signal_that_another_thread_gets_waits_too():
    """Threads of OpenMP do not have the mask of the one that forks, and the kernel may choose any."""
    heard = []
    with signals.caught(lambda number, again: heard.append(number)):
        go, done = threading.Event(), threading.Event()

        def get_one():
            go.wait()
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            done.set()

        thread = threading.Thread(target=get_one)
        thread.start()
        with signals.held():
            go.set()
            done.wait()
            thread.join()
            assert heard == []
        assert heard == [signal.SIGTERM]


def test_outside_the_main_thread_nothing_is_caught():
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=signals.catch)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
