"""How a folder's images are read: found when the folder is looked at, printed, and stored for every later command."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data.files.decode import Kind, look_into
from data.files.formats import BadImageError
from data.files.listing import ImageFiles
from data.files.values import BY_IMAGE, Range, Values, range_of_all
from system import distributed
from system.console import progress

LOOKED_AT = 4096  # files of a folder, evenly spaced, whose form is looked at
DECODED = 256  # of those of them that hold gray of more than 8 bits: whose values are looked at


@dataclass(frozen=True)
class Found:
    """What a look at a folder's files found: how many were looked at, and how many of them are of a kind."""

    looked_at: int = 0
    wide: int = 0
    several_pages: int = 0
    transparent: int = 0


NOTHING = Found()


@dataclass(frozen=True)
class Reading:
    """How images are read: what their short side is scaled to, whether they are streamed, what is black and white.

    Streamed images keep their shape, others are cut to a square. With `resized_first` a streamed image is decoded whole
    and scaled before it is cropped, as the published code does; otherwise crops are made from the file's own pixels,
    in one step.
    """

    side: int
    streamed: bool
    values: Values = BY_IMAGE
    found: Found = NOTHING
    resized_first: bool = False

    @property
    def words(self) -> str:
        """The reading in words, one line."""
        return (
            f"{words(self.values, self.found)}; short side {self.side}, {'streamed' if self.streamed else 'in memory'}"
        )

    def to_record(self) -> dict[str, Any]:
        """The reading as JSON values."""
        return {
            "side": self.side,
            "streamed": self.streamed,
            "values": record_of(self.values),
            "found": asdict(self.found),
            "resized_first": self.resized_first,
        }

    @classmethod
    def from_record(cls, record: Any) -> "Reading":
        """The reading that `to_record` wrote; raises ValueError for anything else."""
        try:
            side, streamed, found = record["side"], record["streamed"], record["found"]
            if type(side) is not int or not 1 <= side <= 2**16 or type(streamed) is not bool:
                raise ValueError
            if any(type(number) is not int for number in found.values()):
                raise ValueError
            resized_first = record.get("resized_first") is True
            return cls(side, streamed, values_of(record["values"]), Found(**found), resized_first)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError("this is not how images are read") from error


def words(values: Values, found: Found) -> str:
    """What a look at a folder found, in words."""
    parts = ["RGB"]
    if values.whole:
        parts.append(f"16-bit gray from {_range_words(values.whole)}")
    if values.floats:
        parts.append(f"gray of floats from {_range_words(values.floats)}")
    if values.colors:
        parts.append(f"16-bit colors from {_range_words(values.colors)}")
    if found.several_pages:
        parts.append(f"of {found.several_pages:,} files with several pages the first page")
    if found.transparent:
        parts.append(f"transparent parts, if any, of {found.transparent:,} files with an alpha channel on white")
    return "; ".join(parts)


def record_of(values: Values) -> dict[str, Any]:
    """Values as JSON values; only what is not by default."""
    return {name: value for name, value in asdict(values).items() if value}


def values_of(record: dict[str, Any]) -> Values:
    """What `record_of` wrote; raises ValueError, TypeError or AttributeError for anything else."""
    ranges = {name: _range_of(record[name]) for name in ("whole", "floats", "colors") if record.get(name)}
    return Values(**ranges, old=record.get("old") is True)


def _range_of(pair: Sequence[float]) -> Range:
    low, high = map(float, pair)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError
    return low, high


def _range_words(shown: Range) -> str:
    return f"{shown[0]:g} (black) to {shown[1]:g} (white)"


def look(files: ImageFiles) -> tuple[Values, Found]:
    """Look at the form of up to 4096 files, evenly spaced, and at the values of up to 256 wide ones of them.

    Rank 0 does it for all.
    """
    return distributed.on_main(lambda: _look(files.full_paths()))


def _look(paths: Sequence[str]) -> tuple[Values, Found]:
    forms = {}
    for path in _evenly(paths, LOOKED_AT):
        try:
            forms[path] = look_into(path)
        except BadImageError:
            continue  # named when all are read
    wide = [path for path, form in forms.items() if form.wide]
    ranges: dict[Kind, list[Range]] = {"whole": [], "floats": [], "colors": []}
    chosen = _evenly(wide, DECODED)
    for path in progress(chosen, total=len(chosen), desc="looking at images"):
        try:
            form = look_into(path, decode=True)
        except BadImageError:
            continue
        if form.wide and form.range:
            ranges[form.wide].append(form.range)
    found = Found(
        len(forms),
        len(wide),
        sum(form.several_pages for form in forms.values()),
        sum(form.transparent for form in forms.values()),
    )
    colors = range_of_all(ranges["colors"], floats=False)
    values = Values(
        range_of_all(ranges["whole"], floats=False),
        range_of_all(ranges["floats"], floats=True),
        None if colors == (0, 65535) else colors,  # None does the same
    )
    return values, found


def _evenly(paths: Sequence[str], most: int) -> list[str]:
    positions = np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths))).round().astype(int))
    return [paths[position] for position in positions]
