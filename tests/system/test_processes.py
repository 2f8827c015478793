"""What this program starts ends with it."""

import subprocess
import sys
from pathlib import Path

import pytest

from system import processes as product
from tests import processes

pytestmark = pytest.mark.slow

PARENT = """
import os, sys, time
from system import processes
if sys.argv[1] == "thread":
    processes._told_by_the_kernel = lambda: False
parent = os.getpid()
child = os.fork()
if child == 0:
    processes.end_with_parent(parent)
    print(os.getpid(), flush=True)
    time.sleep(600)
os.wait()
"""


@pytest.mark.parametrize("way", ["kernel", "thread"])
def test_a_child_ends_with_its_parent(way):
    parent = processes.start(PARENT, way)
    child = int(parent.stdout.readline())
    try:
        assert processes.alive(child)
        processes.kill(parent)
        assert processes.left(lambda: processes.alive(child)) is False
    finally:
        processes.tidy(parent.pid)
        parent.stdout.close()


def test_a_child_whose_parent_is_gone_before_it_began():
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    command = [sys.executable, product.__file__, gone.stdout.strip(), "-m", "this"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (137, "")


def test_a_bound_program_is_the_program(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nimport beside\nprint(__name__, sys.argv[1:], sys.argv[0] == __file__)\nsys.exit(7)")
    (tmp_path / "beside.py").write_text("")
    for program in ([str(script)], ["-m", "script"]):
        bound = product.bound([*program, "a", "--b=c"])
        ended = subprocess.run(bound, cwd=tmp_path, capture_output=True, text=True, timeout=processes.PATIENCE)
        assert (ended.returncode, ended.stdout) == (7, "__main__ ['a', '--b=c'] True\n")


DECODER = """
import sys, time
import torch
from data.files import pool
from torch.utils.data import DataLoader

class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 1000
    def __getitem__(self, i):
        if i > 20:
            time.sleep(600)  # a worker in the middle of an image
        return bytes(1 << 20)  # and one that waits for somebody to read what it made

def same(item):
    return item

loader = DataLoader(Items(), batch_size=None, collate_fn=same, prefetch_factor=8, **pool.options(3))
items = pool.start(loader)
next(items)
print("here", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_decoders_end_with_their_parent():
    parent = processes.start(DECODER)
    try:
        assert parent.stdout.readline() == "here\n"
        assert len(processes.session(parent.pid)) == 4
        processes.kill(parent)
        assert processes.left(lambda: processes.session(parent.pid)) == []
    finally:
        processes.tidy(parent.pid)
        parent.stdout.close()


BUSY = """
import os, signal, sys, time
import torch
from data.files import pool
from torch.utils.data import DataLoader
from utils import cli

class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, i):
        deaf = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        return i, deaf >= {signal.SIGTERM, signal.SIGINT}

def same(item):
    return item

def main(argv):
    real = torch.utils.data._utils.signal_handling._set_worker_signal_handlers
    def signalled_first():  # torch's own handler ends a worker that its parent signals before its init function ran
        real()
        os.kill(os.getpid(), signal.SIGTERM)
    torch.utils.data._utils.signal_handling._set_worker_signal_handlers = signalled_first
    loader = DataLoader(Items(), batch_size=None, collate_fn=same, **pool.options(2))
    print(list(pool.start(loader)))
    return 0

sys.exit(cli.run(main))
"""


def test_workers_are_deaf_to_signals_from_the_first_moment():
    code, said = processes.finish(BUSY)
    assert (code, said) == (0, f"{[(i, True) for i in range(6)]}\n")


def test_a_shell_may_end_before_what_it_started(monkeypatch):
    """Only a rank of torchrun is bound to what started it: `nohup python simclr.py &` is not."""
    bound = []
    monkeypatch.setattr(product, "end_with_parent", bound.append)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    product.end_with_launcher()
    assert bound == []
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    product.end_with_launcher()
    assert bound == [product.os.getppid()]
