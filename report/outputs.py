"""What is written of a prediction: tables, feature rows, a folder a cluster."""

import itertools
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from clustering.prediction import OTHER, Prediction
from system.atomic import TEMPORARY
from system.errors import UserError
from system.files import write_file
from system.lock import locked_files
from system.owned import remove_if_empty
from system.text import csv_cell, csv_path, csv_text, shown

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".unfinished-predict"  # the list in a folder of sorted files, while they are being put there
_SORTED = re.compile(r"[^/]+/[^/]+")
_PARTIAL = re.compile(rf"\.\d+{re.escape(TEMPORARY)}")


@dataclass(frozen=True)
class Columns:
    """What a table says of an image: its `top_k` most probable clusters, or classes where these have `names`.

    A class whose probability is below `least` is left empty.
    """

    top_k: int = 1
    names: Sequence[str] = ()
    least: float = 0.0

    @property
    def header(self) -> list[str]:
        """The names of the columns."""
        first = "label" if self.names else "cluster"
        more = [f"{name}_{k}" for k in range(2, self.top_k + 1) for name in (first, "confidence")]
        return ["path", first, "confidence", *more]

    def rows(self, paths: Sequence[str], prediction: Prediction) -> Iterator[list[Any]]:
        """A row an image: its path, its cluster or class and confidence, and the next ones up to `top_k`.

        An image that belongs in no cluster has OTHER or no class first, with confidence 0.
        """
        # Of equal ones the first, as `argmax` has it for the page and the sorted folders; topk gives any.
        found = prediction.probabilities.float().cpu().sort(dim=1, descending=True, stable=True)
        confidence, clusters = (values[:, : self.top_k].tolist() for values in found)
        first = prediction.clusters.tolist()
        for path, values, numbers, cluster in zip(paths, confidence, clusters, first, strict=True):
            pairs = list(zip(map(self._named, numbers, values), (round(value, 6) for value in values), strict=True))
            if cluster == OTHER:
                pairs = [("" if self.names else OTHER, 0.0), *pairs[:-1]]
            yield [path, *(x for pair in pairs for x in pair)]

    def _named(self, cluster: int, confidence: float) -> int | str:
        if not self.names:
            return cluster
        return self.names[cluster] if confidence >= self.least else ""

    def csv_rows(self, paths: Sequence[str], prediction: Prediction) -> Iterator[list[Any]]:
        """The same, of text that no spreadsheet takes for a formula."""
        for path, *cells in self.rows(paths, prediction):
            yield [csv_path(path), *(csv_cell(cell) if isinstance(cell, str) else cell for cell in cells)]


CLUSTERS = Columns()


def encode_rows(lines: Iterable[Sequence[Any]]) -> bytes:
    """Rows as CSV; the bytes of a file name that are not UTF-8 stay as they are."""
    return csv_text(lines).encode("utf-8", "surrogateescape")


def write_clusters(path: Path, paths: Sequence[str], prediction: Prediction) -> None:
    """Write clusters.csv: `path,cluster,confidence`, one row an image; raises UserError when it cannot be written."""
    data = encode_rows([CLUSTERS.header, *CLUSTERS.csv_rows(paths, prediction)])
    write_file(path, lambda file: file.write(data), record=False, listed=True)


class CsvTable:
    """Rows as CSV, written as they come."""

    def __init__(self, file: BinaryIO, columns: Columns) -> None:
        self.file, self.columns = file, columns
        file.write(encode_rows([columns.header]))

    def write(self, paths: Sequence[str], prediction: Prediction) -> None:
        """Add the rows of a block."""
        self.file.write(encode_rows(self.columns.csv_rows(paths, prediction)))

    def close(self) -> None:
        """Nothing is held back."""
        self.file.flush()


class ParquetTable:
    """Rows as Parquet, a row group a block; raises UserError when pyarrow is not installed."""

    def __init__(self, file: BinaryIO, columns: Columns) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise UserError("Parquet needs the package pyarrow: pip install pyarrow, or give a .csv file") from error
        self.arrow, self.columns = pyarrow, columns
        kinds = {"cluster": pyarrow.int64(), "confidence": pyarrow.float64()}
        fields = [(name, kinds.get(name.split("_")[0], pyarrow.string())) for name in columns.header]
        self.schema = pyarrow.schema(fields)
        self.writer = pyarrow.parquet.ParquetWriter(file, self.schema)

    def write(self, paths: Sequence[str], prediction: Prediction) -> None:
        """Add the rows of a block; bytes of a file name that are not UTF-8 become the replacement character."""
        columns = list(zip(*self.columns.rows(paths, prediction), strict=True))
        columns[0] = tuple(path.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for path in columns[0])
        arrays = [self.arrow.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
        self.writer.write_table(self.arrow.Table.from_arrays(arrays, schema=self.schema))

    def close(self) -> None:
        """Write what Parquet has at its end."""
        self.writer.close()


TABLES: dict[str, Callable[[BinaryIO, Columns], CsvTable | ParquetTable]] = {
    ".csv": CsvTable,
    ".parquet": ParquetTable,
}


class NpyRows:
    """A .npy file float32 `[N, D]` that grows: its header, of constant length, is written again at the end."""

    def __init__(self, file: BinaryIO, dim: int) -> None:
        self.file, self.dim, self.num_rows = file, dim, 0
        self.length = self._write_header()

    def _write_header(self) -> int:
        facts = {"descr": "<f4", "fortran_order": False, "shape": (self.num_rows, self.dim)}
        np.lib.format.write_array_header_1_0(self.file, facts)
        return self.file.tell()

    def write(self, rows: np.ndarray) -> None:
        """Add rows `[n, D]`."""
        self.file.write(np.ascontiguousarray(rows, dtype="<f4").tobytes())
        self.num_rows += len(rows)

    def close(self) -> None:
        """Write the number of rows into the header."""
        self.file.seek(0)
        if self._write_header() != self.length:  # numpy leaves room for the number of rows to grow
            raise UserError("this numpy writes .npy headers of varying length; use numpy 1.26 or later")
        self.file.seek(0, 2)


def folder_names(labels: Sequence[str]) -> list[str]:
    """A folder's name for each label: what some system forbids becomes `_`, and names that then are equal differ."""
    names: list[str] = []
    for label in labels:
        plain = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]|^[.\s]|[.\s]$', "_", label)
        plain = plain.encode("utf-8", "replace")[:200].decode("utf-8", "ignore")
        numbered = (f"{plain}-{number}" for number in itertools.count(2))
        taken = {name.casefold() for name in names}
        names.append(next(name for name in itertools.chain([plain], numbered) if name.casefold() not in taken))
    return names


def cluster_folders(num_clusters: int) -> list[str]:
    """A folder's name for each cluster: cluster-0, or cluster-00 where there are more than ten, and so on.

    The last is that of OTHER, which is -1.
    """
    digits = len(str(num_clusters - 1))
    return [*(f"cluster-{cluster:0{digits}}" for cluster in range(num_clusters)), "other"]


class Sorter:
    """Files sorted into folders, one a cluster or label, as copies or links; names that occur twice are numbered.

    Until all are there, a list in the folder names what was put there. The same `request` continues with an unfinished
    folder: the files get the same names, those that are whole stay, and what belongs nowhere now is removed.
    Raises UserError for a folder that holds anything else.
    """

    def __init__(
        self,
        folder: Path,
        place: Callable[[Path, Path], Any],
        groups: Sequence[str],
        request: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.place, self.groups = folder, place, groups
        self.request = json.dumps({"place": place.__name__, **(request or {})}, sort_keys=True)
        self.earlier = self._read_list()
        self._list: IO[str] | None = None
        self._taken: dict[str, str] = {}

    def _read_list(self) -> set[str]:
        """What an unfinished call put here; raises UserError when the folder holds anything that is not on its list."""
        path = self.folder / UNFINISHED
        if not self.folder.exists():
            return set()
        advice = "give a new one, so that nothing in it is mixed up"
        if not self.folder.is_dir() or (not path.is_file() and any(self.folder.iterdir())) or path.is_symlink():
            raise UserError(f"{self.folder} is not an empty folder; {advice}")
        if not path.exists():
            return set()
        request, *names = path.read_text(encoding="utf-8", errors="surrogateescape").split("\0")[:-1] or [""]
        own = (_SORTED.fullmatch(name) and name.partition("/")[0] in self.groups for name in names)
        if request != self.request or not all(own):
            raise UserError(f"{self.folder} holds what another command has not finished sorting; {advice}")
        known = {UNFINISHED, *names, *(str(Path(name).parent) for name in names)}
        for found in sorted(self.folder.rglob("*")):
            name = found.relative_to(self.folder).as_posix()
            if (name not in known or (found.is_symlink() and "/" not in name)) and not _PARTIAL.fullmatch(name):
                raise UserError(f"{self.folder} holds {name}, which was not put there by this program; {advice}")
        return set(names)

    def _note(self, text: str) -> None:
        if self._list is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / UNFINISHED
            self._list = path.open("a", encoding="utf-8", errors="surrogateescape", newline="")
            locked_files.add(self._list)
            if fcntl is not None:
                try:
                    fcntl.flock(self._list, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise UserError(f"another process is sorting into {self.folder} now") from error
                except OSError:  # a file system without locks
                    pass
            if path.stat().st_size == 0:
                self._list.write(f"{self.request}\0")
            for partial in self.folder.glob(f".*{TEMPORARY}"):
                partial.unlink()
        self._list.write(text)
        self._list.flush()

    def write(self, paths: Sequence[str], clusters: Sequence[int]) -> None:
        """Copy or link the files of a block; raises UserError when that fails."""
        for path, cluster in zip(paths, clusters, strict=True):
            group = self.groups[cluster]
            try:
                name = self._free(f"{group}/", Path(path).name)
                self._note("" if name in self.earlier else f"{name}\0")
                (self.folder / group).mkdir(exist_ok=True)
                self._place(Path(path).resolve(), self.folder / name)
            except OSError as error:
                raise UserError(
                    f"cannot put {shown(path)} into {shown(self.folder / group)}: {error.strerror or error}; "
                    "give another folder"
                ) from error

    def _free(self, group: str, name: str) -> str:
        """A name that no file of this call has yet: this one, or the first that is numbered."""
        stem, suffix = Path(name).stem, Path(name).suffix
        numbered = (f"{group}{stem}-{number}{suffix}" for number in itertools.count(2))
        free = next(found for found in itertools.chain([group + name], numbered) if _folded(found) not in self._taken)
        self._taken[_folded(free)] = free
        return free

    def _place(self, source: Path, target: Path) -> None:
        """Put a file where it belongs: whole under its name, or not at all."""
        partial = self.folder / f".{os.getpid()}{TEMPORARY}"
        try:
            self.place(source, partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def finish(self) -> None:
        """All are there: remove what an unfinished call put elsewhere, and the list."""
        for name in self.earlier:
            if not _is_one(self.folder, name, self._taken.get(_folded(name), "")):
                (self.folder / name).unlink(missing_ok=True)
                remove_if_empty((self.folder / name).parent)
        is_listed, listed = self._list is not None, self.folder / UNFINISHED
        if is_listed and fcntl is not None:  # before the lock is let go: another process may hold the file afterwards
            listed.unlink(missing_ok=True)
        self.close()
        if is_listed:  # Windows removes no open file
            listed.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the folder."""
        if self._list is not None:
            locked_files.discard(self._list)
            self._list.close()


def _folded(name: str) -> str:
    """What two names share that are one on some disks, which know neither case nor how an accent is written."""
    return unicodedata.normalize("NFC", name).casefold()


def _is_one(folder: Path, name: str, other: str) -> bool:
    """Whether two names of a folder, empty for none, are of one file, be it a link."""
    if name == other or not other:
        return name == other
    try:
        return os.path.samestat((folder / name).lstat(), (folder / other).lstat())
    except FileNotFoundError:
        return False


def copy_file(source: Path, target: Path) -> None:
    """Copy a file with its times."""
    shutil.copy2(source, target)


def link_file(source: Path, target: Path) -> None:
    """Make a symbolic link to a file."""
    target.symlink_to(source)
