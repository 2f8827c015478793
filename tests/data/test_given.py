import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from data.given import FeatureTable, require_different
from system.errors import UserError

PATHS = ["a.png", "sub/b.png", "=c.png"]
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def write(path, columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def fixed(rows):
    return pyarrow.array(list(map(list, rows)), pyarrow.list_(pyarrow.float32(), 4))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_an_npy_are_the_images_in_their_order(tmp_path, kind, order):
    np.save(tmp_path / "x.npy", np.asarray(ROWS, dtype=kind, order=order))
    table = FeatureTable(tmp_path / "x.npy")
    found = table.select(PATHS)
    assert table.dim == 4 and found.dtype == torch.float32
    assert found.numpy().tolist() == ROWS.tolist()


@pytest.mark.parametrize("vectors", [fixed, lambda rows: pyarrow.array([row.tolist() for row in rows])])
@pytest.mark.parametrize("name", ["features", "embedding", "vector", "x"])
def test_rows_of_a_parquet_are_found_by_path_whatever_their_order(tmp_path, vectors, name):
    rows = np.concatenate([ROWS[::-1], ROWS[:1] + 100])
    columns = {"size": [1, 2, 3, 4], name: vectors(rows), "path": ["./=c.png", "sub/b.png", "a.png", "other.png"]}
    table = FeatureTable(write(tmp_path / "x.parquet", columns))
    assert table.select(PATHS).numpy().tolist() == ROWS.tolist()


def test_a_column_of_a_known_name_goes_before_other_lists(tmp_path):
    path = write(tmp_path / "x.parquet", {"box": fixed(ROWS + 50), "embedding": fixed(ROWS), "path": PATHS})
    assert FeatureTable(path).select(PATHS).numpy().tolist() == ROWS.tolist()


def changed(row, column, value):
    rows = ROWS.astype(np.float64)
    rows[row, column] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            ROWS[:2],
            "features of 2 images, but there are 3; one row an image, in the order of the paths in clusters.csv",
        ),
        (changed(1, 3, np.nan), r"first in row 1, that of 'sub/b\.png'"),
        (changed(2, 0, -np.inf), r"first in row 2, that of '=c\.png'"),
        (changed(0, 0, 1e39), r"first in row 0, that of 'a\.png'"),
        (ROWS.astype(int), r"holds int64 of shape \[3, 4\]"),
        (ROWS.ravel(), r"holds float32 of shape \[12\]"),
        (np.array([{}]), "holds Python objects"),
    ],
)
def test_an_npy_that_does_not_do_gets_its_sentence(tmp_path, rows, sentence):
    np.save(tmp_path / "x.npy", rows)
    with pytest.raises(UserError, match=sentence):
        FeatureTable(tmp_path / "x.npy").select(PATHS)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"path": ["a.png", "x", "y"], "features": fixed(ROWS)}, "no row for 2 of 3 images: 'sub/b.png', '=c.png'"),
        ({"path": ["a.png", "a.png", "y"], "features": fixed(ROWS)}, "two rows of 'a.png'"),
        ({"path": PATHS, "n": [1, 2, 3]}, "its columns are path, n"),
        ({"name": PATHS, "features": fixed(ROWS)}, "its columns are name, features"),
        ({"path": PATHS, "p": fixed(ROWS), "q": fixed(ROWS)}, "its columns are path, p, q"),
        ({"path": PATHS, "features": [[1.0], [1.0, 2.0], [1.0]]}, "vectors of 1 and of 2 numbers"),
        ({"path": PATHS, "features": [[1.0], [None], [1.0]]}, "vectors with missing numbers"),
        ({"path": PATHS, "features": [[1.0], None, [1.0]]}, "rows without a path or without features"),
        ({"path": PATHS, "features": [["1"], ["2"], ["3"]]}, "features are floats"),
        (
            {"path": pyarrow.array([], "string"), "features": pyarrow.array([], pyarrow.list_(pyarrow.float32()))},
            "no rows",
        ),
    ],
)
def test_a_parquet_that_does_not_do_gets_its_sentence(tmp_path, columns, sentence):
    with pytest.raises(UserError, match=sentence):
        FeatureTable(write(tmp_path / "x.parquet", columns)).select(PATHS)


def test_row_groups_of_vectors_of_different_lengths_get_the_same_sentence(tmp_path):
    path = tmp_path / "x.parquet"
    table = pyarrow.table({"path": PATHS, "features": [[1.0], [1.0], [1.0, 2.0]]})
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    with pytest.raises(UserError, match="vectors of 1 and of 2 numbers"):
        FeatureTable(path)


def test_files_that_are_none_get_their_sentence(tmp_path):
    for name, sentence in (("x.npy", "not a readable .npy"), ("x.parquet", "not a readable .parquet")):
        with pytest.raises(UserError, match="do not exist"):
            FeatureTable(tmp_path / name)
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match=sentence):
            FeatureTable(tmp_path / name)


def test_rows_that_are_all_alike_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"all 3 rows .* are alike"):
        require_different(torch.ones(3, 2), tmp_path)
    require_different(torch.eye(3), tmp_path)
