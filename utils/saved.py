"""Apply a trained clustering model to images that it has not seen: what to load, how to read them, where to write."""

import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from easydict import EasyDict
from pydantic import ValidationError

import data.folder
import data.imagenet
from report import collect as reporting
from system.console import warn
from system.errors import ConfigError, UserError
from system.files import verify_file
from training.folder import CONFIG, MODEL
from utils import schema
from utils.clusters import Prediction
from utils.config import load_config, load_yaml, require

WITHIN = ("", "runs/selflabel", "runs/scan")  # where in a run folder, or in cluster.py's output, a model lies


def find_model(given: Path) -> Path:
    """The model file of a run folder, of an output folder of cluster.py, or the file itself; raises UserError."""
    if not given.is_dir():
        return given  # the reader of weights says it when there is no such file
    for place in WITHIN:
        if (given / place / MODEL).is_file():
            return given / place / MODEL
    raise UserError(f"{given} holds no {MODEL}; give a run folder (such as results/digits/scan) or a model file")


def load_model_config(model: Path, env: str | None, exp: str | None) -> EasyDict:
    """The config of a model: the resolved one beside it, or the one that is named.

    Raises UserError when there is none, or when it is damaged, incomplete or not of a clustering stage.
    """
    path = model.parent / CONFIG
    if exp is not None:
        p = load_config(env, exp)
    elif path.exists():
        verify_file(path)
        p = _read_resolved(path)
    else:
        raise UserError(f"there is no {CONFIG} beside {model}, as runs write it; name the model's config: --config_exp")
    if p.setup not in ("scan", "selflabel"):
        raise UserError(
            f"{model} is a model of the stage {p.setup}, which knows no clusters; give a scan or selflabel one"
        )
    require(p, "num_classes", "transformation_kwargs", script="predict.py")
    return p


def _read_resolved(path: Path) -> EasyDict:
    try:
        content = load_yaml(path)
        known = {key: value for key, value in content.items() if key in schema.Config.model_fields}
        checked = schema.Config.model_validate(known).model_dump()
    except (ConfigError, ValidationError) as error:
        raise UserError(
            f"{path} is not the config of a run ({str(error).splitlines()[0]}); name one: --config_exp"
        ) from error
    return EasyDict({**content, **checked})


def reading(p: EasyDict, model: Path) -> tuple[int, bool]:
    """How the stage read its images: the length of the short side, and whether they were streamed."""
    kwargs, size = p.train_db_kwargs, p.transformation_kwargs.crop_size
    resize, stream = kwargs.get("resize"), kwargs.get("stream", "auto")
    if p.train_db_name in data.imagenet.BUILDERS:
        side, streamed = data.imagenet.reading(size, resize, stream)
    elif p.train_db_name == "folder":
        num_images = num_training_images(p, model) if stream == "auto" else 0
        side, streamed = data.folder.reading(num_images, size, resize, stream)
    else:
        return size, False
    return side, streamed and not kwargs.get("cache_dir")


def num_training_images(p: EasyDict, model: Path) -> int:
    """How many images the pretext task saw, as its neighbor file tells; 0, with a word, when there is none to ask."""
    neighbors, own = p.get("topk_neighbors_train_path"), p.get(f"{p.setup}_dir")
    if neighbors and own:
        path = model.parent / os.path.relpath(neighbors, own)  # results may have been moved as a whole
        if path.is_file():
            return int((verify_file(path) or {}).get("num_images") or 0)
    warn("how large the training folder was cannot be told, so images are read as from one that fits into memory")
    return 0


class CsvTable:
    """Rows as CSV, written as they come."""

    def __init__(self, file: BinaryIO, top_k: int) -> None:
        self.file, self.top_k = file, top_k
        file.write(reporting.encode_rows([reporting.header(top_k)]))

    def write(self, paths: Sequence[str], prediction: Prediction) -> None:
        """Add the rows of a block."""
        self.file.write(reporting.encode_rows(reporting.rows(paths, prediction, self.top_k)))

    def close(self) -> None:
        """Nothing is held back."""
        self.file.flush()


class ParquetTable:
    """Rows as Parquet, a row group a block; raises UserError when pyarrow is not installed."""

    def __init__(self, file: BinaryIO, top_k: int) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise UserError("Parquet needs the package pyarrow: pip install pyarrow, or give a .csv file") from error
        self.arrow, self.top_k = pyarrow, top_k
        kinds = {"path": pyarrow.string(), "cluster": pyarrow.int64(), "confidence": pyarrow.float64()}
        fields = [(name, kinds[name.split("_")[0]]) for name in reporting.header(top_k)]
        self.schema = pyarrow.schema(fields)
        self.writer = pyarrow.parquet.ParquetWriter(file, self.schema)

    def write(self, paths: Sequence[str], prediction: Prediction) -> None:
        """Add the rows of a block; bytes of a file name that are no UTF-8 become the replacement character."""
        columns = list(zip(*reporting.rows(paths, prediction, self.top_k), strict=True))
        columns[0] = tuple(path.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for path in columns[0])
        arrays = [self.arrow.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
        self.writer.write_table(self.arrow.Table.from_arrays(arrays, schema=self.schema))

    def close(self) -> None:
        """Write what Parquet has at its end."""
        self.writer.close()


TABLES: dict[str, Callable[[BinaryIO, int], CsvTable | ParquetTable]] = {
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
        """Tell the number of rows in the header."""
        self.file.seek(0)
        if self._write_header() != self.length:  # numpy leaves room for the number of rows to grow
            raise UserError("this numpy writes .npy headers of varying length; use numpy 1.26 or later")
        self.file.seek(0, 2)


class Sorter:
    """Files sorted into one folder a cluster, as copies or links; names that occur twice are numbered."""

    def __init__(self, folder: Path, place: Callable[[Path, Path], Any], num_clusters: int) -> None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not an empty folder; give a new one, so that nothing in it is mixed up")
        self.folder, self.place, self.digits = folder, place, len(str(num_clusters - 1))

    def write(self, paths: Sequence[str], clusters: Sequence[int]) -> None:
        """Copy or link the files of a block; raises UserError when that fails."""
        for path, cluster in zip(paths, clusters, strict=True):
            folder = self.folder / f"cluster-{cluster:0{self.digits}}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self.place(Path(path).resolve(), _free(folder / Path(path).name))
            except OSError as error:
                raise UserError(f"cannot put {path} into {folder}: {error.strerror or error}") from error


def _free(path: Path) -> Path:
    """A path where nothing lies yet: this one, or the first that is numbered."""
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return next(found for found in itertools.chain([path], numbered) if not (found.is_symlink() or found.exists()))


def copy_file(source: Path, target: Path) -> None:
    """Copy a file with its times."""
    shutil.copy2(source, target)


def link_file(source: Path, target: Path) -> None:
    """Make a symbolic link to a file."""
    target.symlink_to(source)
