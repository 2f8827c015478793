"""Words from outside (file names, keys of a file, class names): shown anywhere, and never markup or a formula.

Everything that is printed goes through `one_line`: `say` and `warn` of `system.console`, every `UserError`, and what a
command line's parser says.
"""

import csv
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

WORD = 200  # characters of one word, such as a key or a file name
LINE = 4000  # characters of a line, whatever it holds
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet takes for the beginning of a formula
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def _code(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{number - 0xDC00:02x}"
    if 0x80 <= number <= 0xFF:  # not to be taken for such a byte
        return f"\\u{number:04x}"
    return character.encode("unicode_escape").decode("ascii")


def escape(text: str) -> str:
    r"""Text in which all that a terminal would obey, reorder or not show is an escape: `\x1b`, `\n`, `\u202e`.

    Bytes of a file name that are not UTF-8 become `\xe9`; other text stays as it is.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _code(c) for c in text)


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    tail = most // 3  # the end of a path says as much as its beginning
    return f"{text[: most - tail - 3]}...{text[-tail:]}"


def shown(word: object, most: int = WORD) -> str:
    """One word from outside as a message or a picture can show it: escaped, and cut in its middle to `most`."""
    return _cut(escape(_cut(str(word), most)), most)


def one_line(text: str) -> str:
    """A whole message: on one line, escaped, and cut in its middle to `LINE` characters."""
    return shown(text, LINE)


def is_utf8(text: str) -> bool:
    """Whether text that was read with `surrogateescape` was UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def quoted(words: list[str] | tuple[str, ...]) -> str:
    """A command line as text that can be pasted into bash or zsh, whatever bytes its words hold."""

    def quote(word: str) -> str:
        if word.isprintable():
            return shlex.quote(word)
        raw = word.encode("utf-8", "surrogateescape")
        plain = (chr(byte) if 0x20 <= byte < 0x7F and byte not in b"'\\" else f"\\x{byte:02x}" for byte in raw)
        return f"$'{''.join(plain)}'"

    return " ".join(map(quote, words))


def markdown_text(text: str) -> str:
    """Text as Markdown shows it literally, in a cell of a table too."""
    text = shown(text, LINE).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"[|`*~$]", r"\\\g<0>", text).replace("](", "]\\(")
    return re.sub(r"^[_#>]|(?<=\W)_|_(?=\W|$)", r"\\\g<0>", text)


def csv_cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula; numbers stay numbers."""
    return f"'{text}" if text.startswith(FORMULA) and not _NUMBER.fullmatch(text) else text


def csv_path(path: str) -> str:
    """A path that no spreadsheet takes for a formula, and that still leads to the file."""
    return f"./{path}" if path.startswith(FORMULA) else path


class _Lines(list[str]):
    """What a csv writer wrote, a row each."""

    def write(self, row: str) -> None:
        self.append(row.removesuffix("\r\n"))


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    r"""Rows as CSV, each ended by `\n`; cells with a line break of any kind are quoted."""
    lines = _Lines()
    csv.writer(lines, lineterminator="\r\n").writerows(rows)  # before Python 3.13 only what ends a line is quoted
    return "".join(f"{line}\n" for line in lines)
