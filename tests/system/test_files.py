"""Files are whole or absent, whatever comes between; what was written is known again."""

import errno
import hashlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from system import atomic, files
from system.errors import UserError

OLD, NEW = b"old" * 1000, b"the new content" * 1000


def put(path, data, **kwargs):
    files.write_file(path, lambda file: file.write(data), **kwargs)


def strays(folder):
    return [path.name for path in folder.iterdir() if path.name.endswith(atomic.TEMPORARY)]


def test_what_is_written_is_read_with_its_facts(tmp_path):
    put(tmp_path / "new" / "a.bin", NEW, fingerprint="f", num_images=3)
    assert (tmp_path / "new" / "a.bin").read_bytes() == NEW
    assert files.verify_file(tmp_path / "new" / "a.bin") == {"fingerprint": "f", "num_images": 3}
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.bin", files.MANIFEST]


def test_a_file_nobody_recorded(tmp_path):
    put(tmp_path / "picture.png", NEW, record=False)
    files.write_text(tmp_path / "page.html", "ä\udcff")
    assert (tmp_path / "page.html").read_bytes() == "ä".encode() + b"\xff"
    assert files.verify_file(tmp_path / "picture.png") is None
    assert not (tmp_path / files.MANIFEST).exists()


def test_keep_gives_the_old_file_another_name(tmp_path):
    for number in range(3):
        put(tmp_path / "newest", b"%d" % number, keep="previous", number=number)
    assert (tmp_path / "newest").read_bytes() == b"2"
    assert (tmp_path / "previous").read_bytes() == b"1"
    assert files.verify_file(tmp_path / "newest") == {"number": 2}
    assert files.verify_file(tmp_path / "previous") == {"number": 1}


def test_a_file_and_its_record_are_removed(tmp_path):
    put(tmp_path / "a", OLD)
    files.remove(tmp_path / "a")
    files.remove(tmp_path / "a")
    put(tmp_path / "b", OLD)
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").write_bytes(b"of another hand")
    assert files.verify_file(tmp_path / "a") is None


def test_replaced_by_hand_is_not_what_was_written(tmp_path):
    put(tmp_path / "a", OLD)
    (tmp_path / "a").write_bytes(NEW)
    with pytest.raises(UserError, match="damaged or replaced"):
        files.verify_file(tmp_path / "a")
    (tmp_path / "a").unlink()
    with pytest.raises(UserError, match="damaged or replaced"):
        files.verify_file(tmp_path / "a")


# A disk that is full


class FullDisk:
    """A file on which there is room for some bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if len(data) > self.room:
            self.file.write(bytes(data)[: self.room])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(data)
        return self.file.write(data)


@pytest.mark.parametrize("room", [0, 1, 10_000])
def test_full_while_writing(tmp_path, room):
    put(tmp_path / "a", OLD, number=1)
    with pytest.raises(UserError, match=r"a: No space left on device: it needs 5\.0 MiB and .* MiB are free"):
        files.write_file(tmp_path / "a", lambda file: FullDisk(file, room).write(NEW), num_bytes=5 << 20, number=2)
    assert (tmp_path / "a").read_bytes() == OLD
    assert files.verify_file(tmp_path / "a") == {"number": 1}
    assert not strays(tmp_path)


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("call", range(4))
def test_full_at_every_call_of_the_system(tmp_path, monkeypatch, function, call):
    """os.fsync and os.replace fail at one of their calls, and from there on."""
    put(tmp_path / "a", OLD, number=1)
    owner = os if function == "fsync" else Path
    real, calls = getattr(owner, function), []

    def fail(*args):
        calls.append(args)
        if len(calls) > call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    monkeypatch.setattr(owner, function, fail)
    refused = False
    try:
        put(tmp_path / "a", NEW, number=2)
    except UserError as error:
        refused = "No space left" in str(error)
    monkeypatch.undo()
    assert refused == (len(calls) > call)
    assert files.verify_file(tmp_path / "a") == {"number": {OLD: 1, NEW: 2}[(tmp_path / "a").read_bytes()]}
    assert not strays(tmp_path)
    put(tmp_path / "a", NEW, number=3)
    assert files.verify_file(tmp_path / "a") == {"number": 3}


def test_a_file_system_that_cannot_sync_folders_is_written_to(tmp_path, monkeypatch):
    real = os.fsync

    def refuse_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    put(tmp_path / "a", NEW, number=1)
    assert files.verify_file(tmp_path / "a") == {"number": 1}
    assert not strays(tmp_path)


def test_a_file_that_is_written_while_it_is_verified_is_no_damaged_one(tmp_path, monkeypatch):
    put(tmp_path / "a", OLD, number=1)
    real, looks = hashlib.file_digest, []

    def written_before(file, name):
        looks.append(name)
        if len(looks) == 1:
            put(tmp_path / "a", NEW, number=2)
            with (tmp_path / "a").open("rb") as newer:
                return real(newer, name)
        return real(file, name)

    monkeypatch.setattr(hashlib, "file_digest", written_before)
    assert files.verify_file(tmp_path / "a") == {"number": 2}


def test_room_is_looked_for_before_writing(tmp_path, monkeypatch):
    put(tmp_path / "a", OLD)
    usage = namedtuple("usage", "total used free")(10 << 20, 9 << 20, 1 << 20)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"needs 2\.5 MiB and 1\.0 MiB are free"):
        files.write_file(tmp_path / "a", lambda file: pytest.fail("began to write"), num_bytes=5 << 19)
    assert (tmp_path / "a").read_bytes() == OLD


def test_an_error_of_the_writer_itself_passes_through(tmp_path):
    def write(file):
        file.write(b"half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        files.write_file(tmp_path / "a", write)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_no_files(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot write"):
        put(tmp_path / "file" / "a", NEW)
    with pytest.raises(UserError, match=r"cannot write .*folder"):
        put(tmp_path / "folder", NEW)
    assert not strays(tmp_path)


# A kill


# The functions that change something on the disk.
WRITERS = {name for name in dir(files) if "write" in name or "replace" in name} - {"write_text"}
MODULES = {files.__file__, atomic.__file__}


def lines_until_killed(step, action):
    """Do something in a child that dies before the given line of a writer; True when it came to its end.

    It dies as by SIGKILL: nothing is cleaned up.
    """
    child = os.fork()
    if child == 0:
        left = step

        def trace(frame, event, _):
            nonlocal left
            if frame.f_code.co_filename not in MODULES or frame.f_code.co_name not in WRITERS:
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        action()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return status == 0


@pytest.fixture
def unsynced(monkeypatch):
    """A killed process loses nothing that it wrote; only a machine without power does."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def every_kill(tmp_path, prepare, action):
    """Yield a folder for every line at which an action was killed."""
    for step in range(1000):
        folder = tmp_path / str(step)
        folder.mkdir()
        prepare(folder)
        done = lines_until_killed(step, lambda folder=folder: action(folder))
        yield folder
        if done:
            assert step > 30, "the action was traced"
            return
    raise AssertionError("the action never ended")


@pytest.mark.slow
def test_killed_between_any_two_lines_of_a_first_write(tmp_path, unsynced):
    for folder in every_kill(tmp_path, lambda folder: None, lambda folder: put(folder / "a", NEW, number=2)):
        if (folder / "a").exists():
            assert (folder / "a").read_bytes() == NEW
            assert files.verify_file(folder / "a") == {"number": 2}
        put(folder / "a", OLD, number=3)
        assert files.verify_file(folder / "a") == {"number": 3}
        files.remove_temporaries(folder)
        assert sorted(path.name for path in folder.iterdir()) == ["a", files.MANIFEST]


@pytest.mark.slow
def test_killed_between_any_two_lines_of_a_later_write(tmp_path, unsynced):
    """The facts that are read are those of the content that is there."""
    seen = set()
    for folder in every_kill(
        tmp_path, lambda folder: put(folder / "a", OLD, number=1), lambda folder: put(folder / "a", NEW, number=2)
    ):
        content = (folder / "a").read_bytes()
        seen.add(content)
        assert files.verify_file(folder / "a") == {"number": {OLD: 1, NEW: 2}[content]}
        put(folder / "a", b"third", number=3)
        assert files.verify_file(folder / "a") == {"number": 3}
        (folder / "a").write_bytes(content)
        with pytest.raises(UserError):
            files.verify_file(folder / "a")
    assert seen == {OLD, NEW}


@pytest.mark.slow
def test_killed_between_any_two_lines_two_files_are_kept(tmp_path, unsynced):
    """Of 0, 1 and then 2, at every instant 1 is there whole, and 0 or 2 next to it."""

    def prepare(folder):
        for number in range(2):
            put(folder / "newest", b"%d" % number, keep="previous", number=number)

    for folder in every_kill(tmp_path, prepare, lambda folder: put(folder / "newest", b"2", keep="previous", number=2)):
        there = {}
        for name in ("newest", "previous"):
            if (folder / name).exists():
                facts = files.verify_file(folder / name)
                there[name] = facts["number"]
                assert (folder / name).read_bytes() == b"%d" % facts["number"]
        assert there in ({"newest": 1, "previous": 0}, {"previous": 1}, {"newest": 2, "previous": 1})
        put(folder / "newest", b"3", keep="previous", number=3)
        files.verify_file(folder / "previous")
        assert files.verify_file(folder / "newest") == {"number": 3}


WRITER = """
import sys
from pathlib import Path
from system.files import write_file
for number in range(10**9):
    data = (b"%d " % number) * 20000
    write_file(Path(sys.argv[1]) / "a", lambda file: file.write(data), keep="b", number=number)
    if not number:
        print("ready", flush=True)
"""


@pytest.mark.slow
def test_a_process_killed_at_random_moments(tmp_path):
    random_moment = random.Random(0)
    root = Path(files.__file__).parent.parent
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], cwd=root, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.05 + 0.1 * random_moment.random())
        process.kill()
        process.communicate()
        for name in ("a", "b"):
            if (tmp_path / name).exists():
                number = files.verify_file(tmp_path / name)["number"]
                assert (tmp_path / name).read_bytes() == (b"%d " % number) * 20000
        assert (tmp_path / "a").exists() or (tmp_path / "b").exists()
        files.remove_temporaries(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} <= {"a", "b", files.MANIFEST}


# Damage


def test_every_flipped_byte_of_the_manifest_is_noticed(tmp_path):
    put(tmp_path / "a", OLD, number=1)
    path = tmp_path / files.MANIFEST
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"manifest\.json is damaged"):
            files.verify_file(tmp_path / "a")
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"manifest\.json is damaged"):
            files.verify_file(tmp_path / "a")


@pytest.mark.parametrize("content", [[], {"a": 1}, {"a": [{}]}, {"a": [{"sha256": 1}]}, {"a": {"sha256": "x"}}])
def test_a_manifest_that_somebody_else_made(tmp_path, content):
    """Its checksum is right, and what it holds is not what is written here."""
    put(tmp_path / "a", OLD)
    (tmp_path / files.MANIFEST).write_text(files._dump(content))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        files.verify_file(tmp_path / "a")
    (tmp_path / files.MANIFEST).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        files.verify_file(tmp_path / "a")


def test_damage_during_a_kill_is_not_taken_for_the_old_file(tmp_path):
    """After a kill the manifest knows two files; a third one that is there is neither, and stays so."""
    put(tmp_path / "a", OLD, number=1)
    manifest = files._read_manifest(tmp_path)
    manifest["a"].insert(0, {"number": 2, "sha256": "0" * 64})
    files._write_manifest(tmp_path, manifest)
    (tmp_path / "a").write_bytes(b"damaged")
    with pytest.raises(UserError):
        files.verify_file(tmp_path / "a")
    assert files._entries(tmp_path / "a", files._read_manifest(tmp_path)) == []


# What killed writers leave


@pytest.fixture(scope="module")
def dead():
    """The number of a process that is gone."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


@pytest.mark.slow
def test_the_next_writer_of_a_file_removes_what_dead_ones_left(tmp_path, dead):
    gone = [f"x.csv.{dead}.partial", f"x.csv.share1.partial.{dead}.partial"]
    kept = [
        f"y.csv.{dead}.partial",  # another file's
        f"x.csv.{os.getppid()}.partial",  # of a process that lives
        f"x.csv.1{'0' * 30}.partial",  # of no process at all
        *("x.csv.notes.partial", "x.csv.partial", "download.partial"),  # the user's
    ]
    for name in gone + kept:
        (tmp_path / name).write_bytes(OLD)
    (tmp_path / "elsewhere").write_bytes(OLD)
    link = tmp_path / f"x.csv.0{dead}.partial"
    link.symlink_to("elsewhere")
    put(tmp_path / "x.csv", NEW, record=False)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "x.csv", "elsewhere", link.name}


def test_names_that_mean_something_to_a_glob(tmp_path, dead):
    (tmp_path / f"x[1]*.csv.{dead}.partial").write_bytes(OLD)
    (tmp_path / f"x1.csv.{dead}.partial").write_bytes(OLD)
    put(tmp_path / "x[1]*.csv", NEW, record=False)
    assert {path.name for path in tmp_path.iterdir()} == {"x[1]*.csv", f"x1.csv.{dead}.partial"}
