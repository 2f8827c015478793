"""Labels of images in a table: a CSV file with the columns `path` and `label`, as label.py and report.html write it."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from system.bounded import read_bytes
from system.errors import UserError
from system.text import FORMULA, is_utf8, shown

MAX_BYTES = 1 << 30  # of a list of millions of images
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffe\uffff]")  # what no XML may hold, and nobody can see


def read_rows(path: Path, columns: list[str], advice: str) -> list[dict[str, str]]:
    """The rows of a CSV file that has these columns, perhaps among others; raises UserError for any other file.

    Cells end in a comma, or in what some spreadsheets write in its place: a semicolon or a tab.
    """
    try:
        data = read_bytes(path, MAX_BYTES)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; {advice}") from error
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")  # as spreadsheets begin their files
    head = next(iter(text.splitlines()), "")
    delimiter = next((end for end in ",;\t" if set(columns) <= {cell.strip('"') for cell in head.split(end)}), ",")
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="", delimiter=delimiter)
    try:
        found = list(reader)
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file ({error}); {advice}") from error
    missing = [name for name in columns if name not in (reader.fieldnames or [])]
    if missing:
        there = ", ".join(map(shown, reader.fieldnames or [])) or "none"
        raise UserError(f"{path} has no column {' and no column '.join(missing)} (its columns: {there}); {advice}")
    return found


def path_of(row: Mapping[str, str]) -> str:
    """The path that `csv_path` made this row's cell from."""
    path = row["path"]
    return path[2:] if path.startswith("./") and path[2:].startswith(FORMULA) else path


def label_of(text: str) -> str:
    """The label that `csv_cell` made this cell from, without spaces around it; a control character is a space."""
    name = text[1:] if text.startswith("'") and text[1:].startswith(FORMULA) else text
    return " ".join(_CONTROL.sub(" ", name).split())


def read_labeled(path: Path) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """Yield of every row where it is, in words, the image's path, its label, empty where it has none, and the row.

    Raises UserError for a path that occurs twice, and a label that is not UTF-8.
    """
    seen: set[str] = set()
    for number, row in enumerate(read_rows(path, ["path", "label"], "give a CSV file with these columns"), 2):
        where, image = f"{path}, line {number}", path_of(row)
        if image in seen:
            raise UserError(f"{where}: {shown(image)} has a row already")
        if not is_utf8(row["label"]):
            raise UserError(f"{where}: the label is not UTF-8; save the table as UTF-8")
        seen.add(image)
        yield where, image, label_of(row["label"]), row


def read_labels(path: Path) -> dict[str, str]:
    """The label of every image that has one, by its path; raises UserError as `read_labeled` does."""
    return {image: label for _, image, label, _ in read_labeled(path) if label}
