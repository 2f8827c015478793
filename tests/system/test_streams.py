"""Standard streams of every kind, and lists of names however they are written."""

import codecs
import errno
import io
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system import streams
from system.errors import UserError
from system.files import REPOSITORY
from system.streams import decode_text, put, read_names, standard_output

TEXT = "12×3 и 日本 🐻"


class Full(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


class OnlyText(io.StringIO):
    """As a notebook's: no buffer, no reconfigure, no descriptor."""

    encoding = "UTF-8"


@pytest.mark.parametrize("encoding", ["ascii", "cp1251", "cp1252", "latin-1", "utf-8", "utf-16", "shift_jis", "koi8-r"])
def test_what_a_console_cannot_show_is_escaped(encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    put(TEXT + "\n", stream)
    said = raw.getvalue().decode(encoding)
    assert said.startswith("12") and said.endswith("\n")
    for character in TEXT:
        escaped = character.encode("ascii", "backslashreplace").decode()
        assert character in said or escaped in said


def test_absent_closed_and_full_streams_end_nothing(monkeypatch):
    err = io.StringIO()
    monkeypatch.setattr("sys.stderr", err)
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed, Full()):
        put("x", stream)
    assert err.getvalue() == "warning: what is printed is lost from here on (No space left on device)\n"
    monkeypatch.setattr("sys.stderr", Full())
    put("x", Full())
    assert not streams.is_terminal(None) and not streams.is_terminal(closed)


def test_bytes_for_a_stream_that_takes_text():
    stream = OnlyText()
    with standard_output(stream) as file:
        for byte in "ä,\ud83d\n".encode("utf-8", "surrogatepass") + b"\xe9\n":
            file.write(bytes([byte]))
    assert stream.getvalue().startswith("ä,") and stream.getvalue().endswith("\\xe9\n")


@pytest.mark.parametrize("stream", [None, Full()])
def test_no_room_for_a_result_is_a_sentence(stream):
    with pytest.raises(UserError, match="standard output"), standard_output(stream) as file:
        file.write(b"x")


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"), min_size=1, max_size=20)
NAMES = st.lists(names.filter(lambda name: name.strip() and not name.startswith("\ufeff")), min_size=1, max_size=20)


@given(NAMES, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_lists_of_lines(given_, end, last):
    text = end.join(given_) + end * last
    for data in (
        text.encode(),
        codecs.BOM_UTF8 + text.encode(),
        codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
    ):
        assert list(read_names(io.BytesIO(data))) == given_
        assert decode_text(data) == text


raw_names = st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name)


@given(st.lists(raw_names, min_size=1, max_size=20))
def test_lists_that_find_prints_with_nul(given_):
    given_ = [b"d/" + name + b".png" for name in given_]  # whatever a file name holds, line breaks too
    data = b"".join(name + b"\0" for name in given_)
    assert [os.fsencode(name) for name in read_names(io.BytesIO(data))] == given_


def test_utf16_without_a_mark_and_bytes_that_are_no_utf8():
    text = "photos/001.png\nphotos/ü.png\n"
    for encoding in ("utf-16-le", "utf-16-be"):
        assert list(read_names(io.BytesIO(text.encode(encoding)))) == text.split()
    assert list(read_names(io.BytesIO(b"a\xe9.png\n\n  \nb.png"))) == ["a\udce9.png", "b.png"]
    assert list(read_names(io.BytesIO(b""))) == []


def test_a_long_list_is_read_in_pieces():
    expected = [f"photos/{'ä' * (i % 40)}{i}.png" for i in range(20_000)]
    for end, encoding in (("\n", "utf-8"), ("\0", "utf-8"), ("\n", "utf-16")):
        stream = io.BytesIO("".join(f"{name}{end}" for name in expected).encode(encoding))
        found = read_names(stream)
        assert next(found) == expected[0] and stream.tell() < 100_000
        assert list(found) == expected[1:]


SCRIPT = """
import sys
from system.console import say
from system.errors import UserError
from utils import cli
def main(argv):
    say("12×3 и")
    open("mine.txt", "w").write("kept")  # takes no number of a standard stream
    raise UserError("no such thing: ×")
sys.exit(cli.run(main))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoding", "closed"),
    [("cp1252", ""), ("cp1251", "")]
    + [("ascii", closed) for closed in ("", ">&-", "2>&-", "<&-", ">&- 2>&- <&-", ">/dev/full 2>/dev/full")],
)
def test_a_program_ends_as_it_would(tmp_path, closed, encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1"}
    command = f'"$0" -c "$1" {closed}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, SCRIPT], env=environment, cwd=tmp_path, capture_output=True, timeout=200
    )
    assert done.returncode == 1 and (tmp_path / "mine.txt").read_text() == "kept"
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    if "2>" not in closed:
        assert b"error: no such thing" in done.stderr
    if ">" not in closed:
        shown = {"ascii": b"12\\xd73", "cp1252": b"12\xd73 \\u0438", "cp1251": b"12\\xd73 \xe8"}
        assert shown.get(encoding, TEXT[:4].encode()) in done.stdout
