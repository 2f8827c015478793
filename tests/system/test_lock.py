"""One process at a time in a run folder; what a dead one left holds nobody up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from system import lock
from system.errors import UserError

ROOT = Path(lock.__file__).parent.parent
HOLD = "import sys; from pathlib import Path; from system.lock import lock_folder; lock_folder(Path(sys.argv[1]));"


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder."""
    command = [sys.executable, "-c", HOLD + "print('held', flush=True); sys.stdin.read()", tmp_path]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_the_second_process_is_refused_and_told_by_whom(tmp_path, holder):
    with pytest.raises(UserError, match=rf"in use by another run \(process {holder.pid} on .* since 20.*run_name"):
        lock.lock_folder(tmp_path)
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == holder.pid

    holder.kill()
    holder.wait()
    assert (tmp_path / ".lock").exists()
    lock.lock_folder(tmp_path)
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    lock.lock_folder(tmp_path)  # the demo's stages share a process


@pytest.mark.slow
def test_who_holds_a_folder(tmp_path, holder):
    assert lock.holder(tmp_path).startswith(f"process {holder.pid} on ")
    holder.kill()
    holder.wait()
    assert lock.holder(tmp_path) is None
    assert lock.holder(tmp_path / "nowhere") is None
    lock.lock_folder(tmp_path)


@pytest.mark.parametrize("name", ["real/run", "link/run", "real/../real/run"])
def test_a_folder_that_was_moved_away_is_noticed_however_it_is_called(tmp_path, name):
    (tmp_path / "real" / "run").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    folder = tmp_path / name
    lock.lock_folder(folder)
    lock.check_held(folder / "model")
    (tmp_path / "real" / "run").rename(tmp_path / "real" / "elsewhere")
    folder.mkdir()
    with pytest.raises(UserError, match="was deleted, moved or replaced while this run was at work"):
        lock.check_held(folder / "model")


@pytest.mark.slow
def test_a_lock_file_without_a_name(tmp_path, holder):
    (tmp_path / ".lock").write_text("")
    with pytest.raises(UserError, match="a process that did not leave its name"):
        lock.lock_folder(tmp_path)


def test_a_stale_lock_file_holds_nothing(tmp_path):
    (tmp_path / ".lock").write_text('{"pid": 1, "host": "elsewhere", "since": "2020"}')
    lock.lock_folder(tmp_path)
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


@pytest.mark.slow
def test_a_worker_that_outlives_its_parent_does_not_hold_the_folder(tmp_path):
    """The parent is killed while a forked child, such as a worker of a DataLoader, goes on."""
    fork = "import os, time; child = os.fork(); print(child, flush=True) if child else None; time.sleep(60)"
    command = [sys.executable, "-c", HOLD + fork, tmp_path]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        os.kill(child, 0)
        lock.lock_folder(tmp_path)
    finally:
        os.kill(child, 9)
        process.stdout.close()


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    lock.lock_folder(tmp_path)
    assert "cannot be locked (Operation not supported)" in capsys.readouterr().err
