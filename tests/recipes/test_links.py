from pathlib import Path

import pytest

from recipes.links import link_images, make_sorter
from report.sorting import UNFINISHED
from system.errors import ConfigError, UserError

TABLE = "path,cluster,confidence\na.png,0,0.9\nsub/a.png,0,0.8\n./=b.png,11,0.7\n"


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/a.png", "=b.png"):
        (root / name).write_text(name)
    (tmp_path / "clusters.csv").write_text(TABLE)
    return root


def sorter(images, folder):
    return make_sorter(folder, images, images.parent / "out", 12)


def test_every_image_is_linked_once_and_stays_where_it_is(images, tmp_path):
    assert link_images(sorter(images, tmp_path / "sorted"), images, tmp_path / "clusters.csv") == 3
    found = {str(path.relative_to(tmp_path / "sorted")): path for path in (tmp_path / "sorted").glob("*/*")}
    assert {name: path.read_text() for name, path in found.items()} == {
        "cluster-00/a.png": "a.png",
        "cluster-00/a-2.png": "sub/a.png",
        "cluster-11/=b.png": "=b.png",
    }
    assert all(path.is_symlink() for path in found.values())
    assert not any(path.is_symlink() for path in images.rglob("*"))


def test_a_table_that_a_spreadsheet_saved_is_the_same(images, tmp_path):
    (tmp_path / "clusters.csv").write_text(TABLE, encoding="utf-8-sig")
    assert link_images(sorter(images, tmp_path / "sorted"), images, tmp_path / "clusters.csv") == 3


def test_a_table_of_more_clusters_is_refused(images, tmp_path):
    (tmp_path / "clusters.csv").write_text(TABLE.replace(",11,", ",12,"))
    with pytest.raises(UserError, match="has a cluster 12"):
        link_images(sorter(images, tmp_path / "sorted"), images, tmp_path / "clusters.csv")
    assert not (tmp_path / "sorted").exists()


def test_what_is_in_the_way_stays_and_is_refused(images, tmp_path):
    (tmp_path / "sorted").mkdir()
    (tmp_path / "sorted/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        sorter(images, tmp_path / "sorted")
    assert [path.name for path in (tmp_path / "sorted").iterdir()] == ["mine.txt"]


def test_an_interrupted_call_is_continued(images, tmp_path):
    first = sorter(images, tmp_path / "sorted")
    first.write([f"{images}/a.png"], [3])  # another cluster than at the end
    first.close()
    assert (tmp_path / "sorted" / UNFINISHED).exists()
    link_images(sorter(images, tmp_path / "sorted"), images, tmp_path / "clusters.csv")
    names = sorted(str(Path(path).relative_to(tmp_path / "sorted")) for path in (tmp_path / "sorted").glob("**/*.png"))
    assert names == ["cluster-00/a-2.png", "cluster-00/a.png", "cluster-11/=b.png"]


@pytest.mark.parametrize("folder", ["images/sorted", "out/sorted", "out"])
def test_links_do_not_join_the_images_or_the_results(images, tmp_path, folder):
    with pytest.raises(ConfigError, match="give another"):
        sorter(images, tmp_path / folder)
