"""What is written of a prediction: tables and feature rows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clustering.prediction import OTHER, Prediction
from system.errors import UserError
from system.files import write_file
from system.text import csv_cell, csv_path, csv_text


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
