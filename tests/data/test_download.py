"""Published archives, fetched from a server on this machine."""

import functools
import hashlib
import http.server
import io
import tarfile
import threading

import pytest

from data.download import NotHereError, locate, no_downloads
from system.errors import UserError

FILES = ["first.bin", "second.bin"]


@pytest.fixture
def server(tmp_path):
    """A folder, and the address at which a server of its own gives its files."""
    served = tmp_path / "served"
    served.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as given:
        thread = threading.Thread(target=given.serve_forever, daemon=True)
        thread.start()
        yield served, f"http://127.0.0.1:{given.server_port}/"
        given.shutdown()


def write_archive(path, length=None):
    """An archive of two files, cut off after `length` bytes; returns the digest of what is written."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for number, name in enumerate(FILES):
            info = tarfile.TarInfo(f"set/{name}")
            info.size = 100_000
            random = hashlib.shake_128(bytes([number])).digest(info.size)  # so that it cannot be packed
            tar.addfile(info, io.BytesIO(random))
    path.write_bytes(content.getvalue()[:length])
    return hashlib.md5(path.read_bytes()).hexdigest()


def find(root, address, md5, files=FILES):
    return locate("things", root, "set", files, f"{address}things.tar.gz", md5)


def test_an_archive_is_fetched_once_and_files_that_are_there_stay(server, tmp_path):
    served, address = server
    md5 = write_archive(served / "things.tar.gz")
    root = tmp_path / "data"
    with no_downloads(), pytest.raises(NotHereError, match=r"things is not in .* \(no set/first.bin\)"):
        find(root, address, md5)
    (root / "set").mkdir(parents=True)
    (root / "set" / "first.bin").write_bytes(b"mine")
    assert find(root, address, md5) == root / "set"
    assert (root / "set" / "first.bin").read_bytes() == b"mine"
    assert (root / "set" / "second.bin").read_bytes() == hashlib.shake_128(b"\1").digest(100_000)
    assert sorted(path.name for path in root.iterdir()) == [".set.lock", "set", "things.tar.gz"]
    (served / "things.tar.gz").unlink()
    assert find(root, address, md5) == root / "set"


@pytest.mark.parametrize("files", [FILES, FILES[:1]])
def test_an_archive_that_breaks_off_leaves_no_file_in_place(server, tmp_path, files):
    """Of the two files the first is whole in it; whichever are wanted, none is taken."""
    served, address = server
    md5 = write_archive(served / "things.tar.gz", 150_000)
    with pytest.raises(UserError, match=r"things is not in .* \(no set/first.bin\) and cannot be downloaded"):
        find(tmp_path / "data", address, md5, files)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [".set.lock", "things.tar.gz"]


def test_a_folder_that_is_a_link_is_filled_where_it_leads(server, tmp_path):
    served, address = server
    md5 = write_archive(served / "things.tar.gz")
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / "set").symlink_to(tmp_path / "elsewhere")
    find(tmp_path / "data", address, md5)
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == FILES


def test_what_a_login_page_answers_is_named(server, tmp_path):
    served, address = server
    (served / "things.tar.gz").write_text("<html>Log in first</html>")
    with pytest.raises(UserError, match=r"data/things.tar.gz was downloaded, but its checksum is not that of"):
        find(tmp_path / "data", address, "0" * 32)


def test_an_archive_of_something_else(server, tmp_path):
    served, address = server
    md5 = write_archive(served / "things.tar.gz")
    with pytest.raises(UserError, match=r"set/third.bin was not in the archive"):
        find(tmp_path / "data", address, md5, ["third.bin"])
