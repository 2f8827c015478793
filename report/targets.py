"""Where the predictions of a call go, which is none of what it reads, and how they are written block by block."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import BinaryIO

from clustering.prediction import OTHER, Block
from data.files.unseen import list_inputs
from report.outputs import TABLES, Columns, CsvTable, NpyRows, ParquetTable
from report.sorting import Sorter
from system.console import say, warn
from system.errors import ConfigError, UserError
from system.files import is_own, write_file
from system.streams import read_names, standard_input
from system.text import shown


class Targets:
    """The files that a call writes, by the option that names each, and the folder that it sorts images into.

    `given` holds None for what is not asked for; `folder` is the one of `folder_option`. `read` are files that the call
    needs, `images` the words that name its images, `-` for a list of them on the standard input.
    Raises ConfigError for targets that are equal, however they are spelled, or that are in each other's way.
    """

    def __init__(
        self,
        given: Mapping[str, str | None],
        images: Sequence[str],
        read: Sequence[Path],
        folder: str | None = None,
        folder_option: str = "",
    ) -> None:
        self.images, self.folder_option = images, folder_option
        self.folder = os.path.realpath(folder) if folder else None
        files = {option: name for option, name in given.items() if name}
        for (option, name), (other, other_name) in combinations(files.items(), 2):
            if _is_same(name, other_name):
                raise ConfigError(f"{option} and {other} are both {name}; give each a file of its own")
        for option, name in files.items():
            path = os.path.realpath(name)
            if self.folder and Path(path).is_relative_to(self.folder):
                raise ConfigError(f"{option} is in the folder of {folder_option}, which only holds images; move it out")
            if is_own(Path(path)):
                raise ConfigError(f"{option} is {name}, a file of a run; give another name")
            if any(_is_same(path, other) for other in read):
                raise ConfigError(f"{option} is {name}, which is read; give another name")
        for word in images:
            self._check_folder(word)
        self._numbers = {_identity(name): option for option, name in files.items() if Path(name).exists()}

    def _check_folder(self, word: str) -> None:
        """Raise ConfigError when what is sorted would be among the images and count as more of them."""
        if self.folder and word != "-" and os.path.isdir(word):  # noqa: PTH112 (Path.is_dir raises for some paths)
            root = os.path.realpath(word)
            if Path(self.folder).is_relative_to(root):
                raise ConfigError(
                    f"the folder of {self.folder_option}, {self.folder}, is inside the folder of images {word}; give "
                    "another"
                )

    def inputs(self) -> Iterator[str]:
        """The images that the words name; raises ConfigError when one of them is a file that will be written."""
        for path in self._list_images():
            if self._numbers:
                with contextlib.suppress(OSError):
                    option = self._numbers.get(_identity(path))
                    if option:
                        raise ConfigError(f"{option} is {path}, which is one of the images; give another name")
            yield path

    def _list_images(self) -> Iterator[str]:
        for word in self.images:
            if word == "-":
                for name in read_names(standard_input()):
                    self._check_folder(name)
                    yield from list_inputs([name])
            else:
                yield from list_inputs([word])


def _identity(path: str | Path) -> tuple[int, int]:
    found = Path(path).stat()
    return found.st_dev, found.st_ino


def _is_same(one: str | Path, other: str | Path) -> bool:
    """Whether two paths lead to one file, which need not be there yet."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    return Path(one).exists() and Path(other).exists() and Path(one).samefile(other)


class BlockWriter:
    """Writes predictions as they come: a table, feature rows to `embeddings`, images sorted by `sorter`.

    Images that get no label are not sorted.

    `kind` is the table's, a key of TABLES. Files that cannot be read are named, and counted in `num_unreadable`.
    """

    def __init__(
        self, kind: str, columns: Columns, embeddings: str | None = None, dim: int = 0, sorter: Sorter | None = None
    ) -> None:
        self.kind, self.columns, self.embeddings, self.dim, self.sorter = kind, columns, embeddings, dim, sorter
        self.num_images = self.num_unreadable = 0

    def write(self, blocks: Iterable[Block], file: BinaryIO) -> None:
        """Write all blocks, the table to an open file; raises UserError when no image of them can be read."""
        table = TABLES[self.kind](file, self.columns)
        with contextlib.closing(self.sorter) if self.sorter else contextlib.nullcontext():
            if self.embeddings:
                write_file(self.embeddings, lambda rows: self._write(blocks, table, rows), record=False)
                say(f"features: {self.embeddings}")
            else:
                self._write(blocks, table, None)

    def _write(self, blocks: Iterable[Block], table: CsvTable | ParquetTable, file: BinaryIO | None) -> None:
        rows = NpyRows(file, self.dim) if file else None
        for paths, prediction, unreadable in blocks:
            for path, reason in unreadable.items():
                warn(f"skipped '{shown(path)}': {reason}")
            self.num_images, self.num_unreadable = self.num_images + len(paths), self.num_unreadable + len(unreadable)
            if prediction is None:
                continue
            table.write(paths, prediction)
            if rows:
                rows.write(prediction.features.numpy())
            if self.sorter:
                sorted_in = prediction.confidence >= self.columns.least
                if self.columns.names:
                    sorted_in &= prediction.clusters != OTHER
                rows_in = sorted_in.nonzero()[:, 0].tolist()
                self.sorter.write([paths[i] for i in rows_in], prediction.clusters[rows_in].tolist())
        if self.num_images == 0:
            what = (
                f"none of the {self.num_unreadable:,} files can be read"
                if self.num_unreadable
                else "no images are given"
            )
            raise UserError(f"{what}; IMAGES are image files, directories of them, or - for a list on stdin")
        table.close()
        if rows:
            rows.close()
        if self.sorter:
            self.sorter.finish()
