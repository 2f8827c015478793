"""What tests share: one thread (tiny tensors lose by more), and a hypothesis that tries the same cases every time."""

import signal
import sys

import pytest
import torch
from hypothesis import settings
from matplotlib.figure import Figure

from system.signals import HANGUP, STOPPING

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")


if HANGUP and signal.getsignal(HANGUP) is signal.SIG_IGN:  # under nohup, and programs that tests start inherit it
    signal.signal(HANGUP, signal.SIG_DFL)

PROGRAMS = []  # the Python programs that tests started


def note_programs(event, details):
    if event == "subprocess.Popen" and details[0] == sys.executable:
        PROGRAMS.append(details[1])


sys.addaudithook(note_programs)


@pytest.fixture(autouse=True)
def slow_where_programs_start(request):
    """A test that starts Python programs, itself or by its fixtures, is marked slow: their imports take seconds."""
    yield
    started = list(PROGRAMS)
    PROGRAMS.clear()
    assert not started or request.node.get_closest_marker("slow"), f"mark this test slow: it started {started}"


@pytest.fixture(autouse=True)
def signals():
    """What a stage does to the process's signals ends with the test."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def empty_pictures():
    """Pictures are files with one word in them: drawing takes longer than a tiny stage does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, file, **options: file.write(b"picture"))
        yield
