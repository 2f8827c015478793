"""Paths that a person gives: `~` and variables in them, and files that are what they seem."""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from system.errors import ConfigError, UserError
from system.text import shown

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([^}]*)\})")


def expand_path(path: Path | str) -> str:
    """A path as it was given, with `~`, `$VAR` and `${VAR}` replaced, as a shell would.

    A name further in that exists as it is written, such as a folder `a/$5_to_$10`, is taken as it is, and so is a first
    one unless a variable or a home directory is all of it. Raises ConfigError for a variable that is not set, a home
    directory that does not exist, and what no path can hold.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise ConfigError(f"the path {shown(text)} cannot be read or written: it holds a NUL character")
    first, *rest = text.split("/")
    built = _expand_home(first, text) if first.startswith("~") else _expand_variables("", first, text)
    for part in rest:
        built = f"{built}/{_expand_variables(f'{built}/', part, text)}"
    return built


def _expand_home(first: str, text: str) -> str:
    expanded = os.path.expanduser(first)  # noqa: PTH111 (a Path would drop `./` and a last `/`)
    if expanded == first and not os.path.lexists(first):
        raise ConfigError(f"the path {shown(text)} begins with a home directory that does not exist; correct it")
    return expanded


def _expand_variables(before: str, part: str, text: str) -> str:
    whole = _VARIABLE.fullmatch(part) is not None and not before
    found = [match[1] or match[2] for match in _VARIABLE.finditer(part)]
    if not found or (os.path.lexists(before + part) and not (whole and found[0] in os.environ)):
        return part
    for name in found:
        if name not in os.environ:
            raise ConfigError(f"the path {shown(text)} names the variable {shown(name)}, which is not set; set it")
    return _VARIABLE.sub(lambda match: os.environ[match[1] or match[2]], part)


@contextlib.contextmanager
def usable(folder: Path, advice: str) -> Iterator[None]:
    """Make a folder, and raise UserError, with `advice`, where that or what is done in the body cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"cannot use the folder {folder}: {error.strerror}; {advice}") from error


def open_regular(path: Path | str) -> BinaryIO:
    """Open a file to be read, but nothing that would keep one waiting or never end: a pipe, a socket, a device.

    Raises OSError, for such a file too.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    file = open(path, "rb", opener=opener)  # noqa: SIM115 (the caller's)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(None, "not a regular file")
    return file
