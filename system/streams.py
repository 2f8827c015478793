"""Standard streams that may be absent, closed, full, a notebook's, or of an encoding that lacks a character."""

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO, TextIO

from tqdm import tqdm

from system.errors import UserError

MARKS = {  # at the beginning of a text; the longer ones first
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
HEAD = 1 << 13  # bytes that show how a list is written: more than any path, so that the first one ends within
CHUNK = 1 << 16


def prepare_streams() -> None:
    """Have no console end this program: what it cannot show is escaped, and what is closed leads nowhere."""
    for number in range(3):
        with contextlib.suppress(OSError):
            try:
                os.fstat(number)
            except OSError:  # closed: else the next file that is opened would take its place, and all that is printed
                os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):  # a stream that cannot be flushed, or is closed
                stream.reconfigure(errors="backslashreplace")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads a stream as it is written."""
    with contextlib.suppress(AttributeError, ValueError):  # absent, or closed
        return bool(stream.isatty())  # type: ignore[union-attr]
    return False


def put(text: str, stream: TextIO | None) -> None:
    """Write text to a stream, above a running progress bar; what the stream cannot show is escaped.

    A stream that is absent takes nothing. Where one fails (a full disk), that is said once on stderr, and what comes
    after is lost: the work goes on. Raises BrokenPipeError where nobody reads any more.
    """
    if stream is None:
        return
    try:
        try:
            _write(text, stream)
        except UnicodeEncodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            _write(text.encode(encoding, "backslashreplace").decode(encoding), stream)
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        silence(stream)
        if isinstance(error, OSError) and stream is not sys.stderr:
            put(f"warning: what is printed is lost from here on ({error.strerror or error})\n", sys.stderr)


def _write(text: str, stream: TextIO) -> None:
    tqdm.write(text, file=stream, end="")
    stream.flush()


def silence(stream: TextIO | None) -> None:
    """Have what a stream still holds, and all that comes, lead nowhere: it could only fail again, at the very end."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        finally:
            os.close(nowhere)


class _AsText(io.RawIOBase):
    """Takes UTF-8 bytes for a stream that takes only text, as a notebook's."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._stream.write(self._decoder.decode(bytes(data)))
        return len(data)

    def flush(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def standard_output(stream: TextIO | None) -> Iterator[BinaryIO]:
    """The bytes of a standard output that a result goes to; raises UserError where it is absent or full."""
    if stream is None or getattr(stream, "closed", False):
        raise UserError("there is no standard output to write to; name a file with --output")
    try:
        buffer: Any = getattr(stream, "buffer", None) or _AsText(stream)
        yield buffer
        buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(stream)
        raise UserError(
            f"the standard output cannot be written: {error.strerror or error}; name a file with --output"
        ) from error


def standard_input() -> BinaryIO:
    """The bytes of the standard input; raises UserError where there is none."""
    stream = sys.stdin
    if stream is None or getattr(stream, "closed", False):
        raise UserError("there is no standard input to read a list from; name the files instead")
    buffer: Any = getattr(stream, "buffer", None)
    return buffer or io.BytesIO(stream.read().encode("utf-8", "surrogateescape"))


def encoding_of(head: bytes) -> tuple[str, int]:
    """How a text that begins with these bytes is written, and the length of the mark that says so (or 0)."""
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding, len(mark)
    even, odd = head[::2], head[1::2]
    for encoding, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        # Without a mark: every second byte of Latin letters, digits and slashes is 0, and no other.
        if len(head) > 2 and 0 not in others and zeros.count(0) > 0.5 * len(zeros) and b"\0" * 2 not in head:
            return encoding, 0
    return "utf-8", 0


def read_names(stream: BinaryIO) -> Iterator[str]:
    """File names of a list: one a line, or each ended by a NUL byte (`find -print0`); UTF-8 or UTF-16, with or without
    a byte order mark. Empty ones are left out; bytes that are not UTF-8 stay what they are. The list is never held.
    """
    head = stream.read(HEAD)
    encoding, length = encoding_of(head)
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape" if encoding == "utf-8" else "replace")
    # No path is as long as the head, so one that is ended by NUL ends within it.
    separator = "\0" if encoding == "utf-8" and b"\0" in head else "\n"
    rest = ""
    for chunk in chain([head[length:]], iter(lambda: stream.read(CHUNK), b""), [None]):
        text = rest + (decoder.decode(b"", final=True) if chunk is None else decoder.decode(chunk))
        *names, rest = text.split(separator)
        if chunk is None:
            names.append(rest)
        for name in names:
            name = name.removesuffix("\r") if separator == "\n" else name
            if name.strip() or (separator == "\0" and name):
                yield name


def decode_text(data: bytes) -> str:
    """The text of a small file: UTF-8 or UTF-16, with or without a byte order mark; raises UnicodeDecodeError."""
    encoding, length = encoding_of(data[:HEAD])
    return data[length:].decode(encoding)
