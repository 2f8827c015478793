"""Color where a person reads it: the stream that is written to decides, and the environment over it."""

import io

import pytest

from system import console
from system.errors import UserError
from utils import cli

COLORS = ("NO_COLOR", "FORCE_COLOR", "ANSI_COLORS_DISABLED")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in COLORS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def fail(argv):
    raise UserError("no such thing")


def speak(monkeypatch, out, err):
    """Say, warn and fail into two streams; returns for each whether it got escape codes."""
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    console.say("done", "green")
    console.warn("careful")
    assert cli.run(fail) == 1
    assert "done" in out.getvalue() and "warning: careful" in err.getvalue() and "no such thing" in err.getvalue()
    lines = err.getvalue().splitlines()
    assert len({"\x1b[" in line for line in lines}) == 1  # warning and error alike
    return "\x1b[" in out.getvalue(), "\x1b[" in err.getvalue()


def test_the_stream_that_is_written_to_decides(monkeypatch):
    assert speak(monkeypatch, Terminal(), io.StringIO()) == (True, False)
    assert speak(monkeypatch, io.StringIO(), Terminal()) == (False, True)


def test_the_environment_overrides_the_streams(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert speak(monkeypatch, io.StringIO(), io.StringIO()) == (True, True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert speak(monkeypatch, Terminal(), Terminal()) == (False, False)


def test_a_dumb_terminal_gets_no_color(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert speak(monkeypatch, Terminal(), Terminal()) == (False, False)
