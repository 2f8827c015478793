"""The folder of a clustering: what is removed when it starts again, and what stays."""

from recipes.minutes import time_words
from recipes.project import Project
from system.files import write_text


class Files:
    def fingerprint(self):
        return "abc"

    def __len__(self):
        return 9


def test_starting_again_forgets_every_number_that_was_looked_for(tmp_path):
    project = Project(tmp_path, {"folder": "images", "num_clusters": None})
    for name in ("2-50", "3-4"):
        search = tmp_path / "runs/number" / name
        search.mkdir(parents=True)
        write_text(search / "run.json", '{"status": "finished", "stage": "number"}', record=True)
        write_text(search / "number.png", "curves", listed=True)
        (search / "mine.txt").write_text("mine")
    (tmp_path / "runs/number/mine").mkdir()
    (tmp_path / "runs/number/mine/config.yml").write_text("mine")
    project.begin(Files(), again=False)
    assert len(list((tmp_path / "runs/number").glob("*/run.json"))) == 2
    (tmp_path / "configs").mkdir()
    write_text(tmp_path / "configs/number.yml", "run_name: 2-50", listed=True)
    project.begin(Files(), again=True)
    assert not (tmp_path / "configs/number.yml").exists()
    left = sorted(str(path.relative_to(tmp_path / "runs/number")) for path in tmp_path.glob("runs/number/*/[!.]*"))
    assert left == ["2-50/manifest.json", "2-50/mine.txt", "3-4/manifest.json", "3-4/mine.txt", "mine/config.yml"]


def test_starting_again_removes_what_label_py_left_and_nothing_of_the_user(tmp_path):
    out, files = tmp_path / "out", Files()
    project = Project(out, {"folder": "images", "num_clusters": 3})
    project.folder.mkdir()
    for name in ("model.pth.tar", "config.yml", "run.json"):
        write_text(out / "labels" / name, "ours", record=True)
    write_text(out / "labels.csv", "ours", listed=True)
    (out / "labels/notes.txt").write_text("mine")
    project.begin(files, again=False)
    assert (out / "labels.csv").exists() and (out / "labels/model.pth.tar").exists()
    project.begin(files, again=True)
    assert [path.name for path in (out / "labels").iterdir()] == ["notes.txt"] and not (out / "labels.csv").exists()
    (out / "labels.csv").write_text("mine")
    (out / "labels/model.pth.tar").write_text("mine")
    project.begin(files, again=True)
    assert (out / "labels.csv").read_text() == (out / "labels/model.pth.tar").read_text() == "mine"


def test_the_search_for_the_number_is_part_of_the_minutes(tmp_path):
    project = Project(tmp_path, {"num_clusters": 5})
    project.facts |= {"stages": ["selflabel"], "minutes": 3.0, "number": {"num_clusters": 5, "seconds": 60.0}}
    assert time_words(project, "selflabel") == ["minutes=2.000"]
