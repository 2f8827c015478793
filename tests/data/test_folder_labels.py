import pytest
from PIL import Image

from data.folder import build
from system.errors import UserError

PATHS = ["a/1.png", "a/=2.png", "b/3.png", "b/4.png"]


def folder_of(tmp_path, table):
    for path in PATHS:
        file = tmp_path / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(file)
    (tmp_path / "labels.csv").write_text(table)
    return build(tmp_path / "images", "train", 8, labels=str(tmp_path / "labels.csv"))


def test_a_table_takes_the_place_of_folders(tmp_path):
    found = folder_of(tmp_path, "path,label,more\na/1.png,dog,x\nb/3.png, big  cat ,x\nb/4.png,,x\na/=2.png,'=dog,x\n")
    targets = dict(zip(found.paths, found.targets.tolist(), strict=True))
    assert found.classes == ["=dog", "big cat", "dog"]
    assert targets == {"a/1.png": 2, "a/=2.png": 0, "b/3.png": 1, "b/4.png": -1}


@pytest.mark.parametrize(
    "table, said",
    [
        ("path,label\nz.png,dog\n", r"a label for z\.png, which is not in"),
        ("path,label\na/1.png,dog\na/1.png,cat\n", "line 3: a/1.png has a row already"),
        ("path,name\n", "no column label"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, table, said):
    with pytest.raises(UserError, match=said):
        folder_of(tmp_path, table)
