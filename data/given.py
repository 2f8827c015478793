"""Features that somebody else computed: a .npy file with a row an image, or a .parquet file of paths and vectors."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from system.bounded import map_array
from system.errors import UserError
from system.text import shown

KINDS = (".npy", ".parquet")
PATH, VECTORS = "path", ("features", "embedding", "vector")
"""Names of a Parquet file's columns."""
NUM_NAMED = 3
BLOCK = 1 << 16  # rows
ORDER = (
    "one row an image, in the order of the paths in clusters.csv: first the images of the folder itself, then those of "
    "one directory after another, each sorted by path; a .parquet file with a column path needs no order"
)


class FeatureTable:
    """The rows of a file, `[N, D]` of floats, and their paths where it names them.

    Raises UserError for a file that is missing, of another kind, or that holds something else, among it vectors of
    another length than `dim` where that is known.
    """

    def __init__(self, path: Path, dim: int | None = None) -> None:
        self.path = path
        if path.suffix not in KINDS:
            raise UserError(f"{path} is no file of features; they are in a {' or '.join(KINDS)} file")
        if not path.is_file():
            raise UserError(f"the features {path} do not exist; check the path")
        self.paths: list[str] | None = None
        if path.suffix == ".parquet":
            self.paths, self.rows = _read_parquet(path)
        else:
            self.rows = map_array(path)
        if self.rows.ndim != 2 or self.rows.dtype.kind != "f" or not self.dim:
            raise UserError(
                f"{path} holds {self.rows.dtype} of shape {list(self.rows.shape)}; features are floats of shape "
                "[images, numbers of each]"
            )
        if dim not in (None, self.dim):
            raise UserError(f"{path} has {self.dim:,} numbers an image, but those of the model have {dim:,}")

    @property
    def dim(self) -> int:
        """D, the length of a vector."""
        return self.rows.shape[1]

    def select(self, paths: Sequence[str]) -> Tensor:
        """Return the features float32 `[len(paths), D]` of images, whose paths are relative to their folder.

        Raises UserError, with the first of them, when images have no row, or rows no finite numbers.
        """
        if self.paths is None:
            if len(self.rows) != len(paths):
                raise UserError(
                    f"{self.path} holds features of {len(self.rows):,} images, but there are {len(paths):,}; {ORDER}"
                )
            numbers = np.arange(len(paths))
        else:
            numbers = self._find(self.paths, paths)
        found = np.empty((len(paths), self.dim), dtype=np.float32)
        for start in range(0, len(paths), BLOCK):
            part = slice(start, start + BLOCK)
            with np.errstate(over="ignore"):  # what is too large for float32 is said below
                found[part] = self.rows[numbers[part]]
            bad = np.flatnonzero(~np.isfinite(found[part]).all(axis=1))
            if len(bad):
                first = start + int(bad[0])
                raise UserError(
                    f"{self.path} holds NaN or infinite numbers, first in row {numbers[first]:,}, that of "
                    f"'{shown(paths[first])}'; compute it again, or leave that image out"
                )
        return torch.from_numpy(found)

    def _find(self, own: Sequence[str], paths: Sequence[str]) -> np.ndarray:
        """The row of each path."""
        rows: dict[str, int] = {}
        for row, name in enumerate(map(_plain, own)):
            if rows.setdefault(name, row) != row:
                raise UserError(f"{self.path} has two rows of '{shown(name)}'; leave one of them out")
        missing = [path for path in paths if _plain(path) not in rows]
        if missing:
            first = ", ".join(f"'{shown(path)}'" for path in missing[:NUM_NAMED])
            more = ", …" if len(missing) > NUM_NAMED else ""
            raise UserError(
                f"{self.path} has no row for {len(missing):,} of {len(paths):,} images: {first}{more}; its paths must "
                f"be relative to the folder, as in clusters.csv (its first is '{shown(own[0])}')"
            )
        return np.array([rows[_plain(path)] for path in paths])


def require_different(features: Tensor, path: Path) -> None:
    """Raise UserError when all features `[N, D]` are alike, so that there is nothing to group."""
    if len(features) > 1 and bool((features == features[0]).all()):
        raise UserError(f"all {len(features):,} rows of {path} are alike, so there is nothing to group; check the file")


def _plain(path: str) -> str:
    """A path in one spelling, and as UTF-8, which a Parquet file holds."""
    return os.path.normpath(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _read_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet needs the package pyarrow: pip install pyarrow, or give a .npy file") from error
    try:
        schema = pyarrow.parquet.read_schema(path)
        vectors = _vector_column(path, schema, pyarrow.types)
        table = pyarrow.parquet.read_table(path, columns=[PATH, vectors])
        paths = table[PATH].cast(pyarrow.string())
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable .parquet file ({error})") from error
    column = table[vectors]
    if not len(column):
        raise UserError(f"{path} has no rows; give the features of the images")
    if paths.null_count or column.null_count:
        raise UserError(f"{path} has rows without a path or without features; leave them out")
    parts = [_matrix(path, chunk) for chunk in column.chunks if len(chunk)]
    widths = [part.shape[1] for part in parts]
    _require_one_length(path, min(widths), max(widths))
    return paths.to_pylist(), np.concatenate(parts)


def _require_one_length(path: Path, least: int, most: int) -> None:
    if least != most:
        raise UserError(f"{path} has vectors of {least} and of {most} numbers; all need one length")


def _vector_column(path: Path, schema: Any, types: Any) -> str:
    """The name of the column of vectors: one of VECTORS, or the only one of lists."""
    lists = [
        field.name
        for field in schema
        if types.is_list(field.type) or types.is_large_list(field.type) or types.is_fixed_size_list(field.type)
    ]
    named = [name for name in VECTORS if name in lists] or lists
    if PATH not in schema.names or len(named) != 1:
        raise UserError(
            f"{path} needs a column '{PATH}' and one of lists of floats, called {', '.join(VECTORS)} or the only one; "
            f"its columns are {', '.join(map(shown, schema.names))}"
        )
    return named[0]


def _matrix(path: Path, column: Any) -> np.ndarray:
    """A column of lists of one length as an array `[N, D]`."""
    import pyarrow.compute

    lengths = pyarrow.compute.min_max(pyarrow.compute.list_value_length(column)).as_py()
    _require_one_length(path, lengths["min"], lengths["max"])
    values = column.flatten()
    if values.null_count:
        raise UserError(f"{path} has vectors with missing numbers; leave those rows out")
    return values.to_numpy(zero_copy_only=False).reshape(len(column), lengths["min"])
