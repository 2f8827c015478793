"""What this program wrote may go, by the list that it keeps; everything else stays as it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from system import files, lock, owned
from system.errors import UserError
from training.comparison import Keys
from training.folder import KEPT, WRITTEN, RunFolder
from training.record import write_record


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def run_folder(folder, overwrite=True):
    return RunFolder(folder, {"setup": "scan", "root_dir": str(folder.parent), "overwrite": overwrite}, Keys())


FOREIGN = (
    *("notes.txt", "neighbors-mine.png", "features-mine.npy", "download.partial", "model.pth.tar.bak"),
    *("o.csv.1.partial", "report.html", "prototypes.png", "trace.json", "tensorboard/notes.txt"),
    *("mine/model.pth.tar", "a b/ü.png"),
)
NAMES = st.sampled_from(FOREIGN)


@pytest.mark.slow
@given(st.dictionaries(NAMES, st.binary(max_size=9)), st.sets(st.sampled_from(WRITTEN)), st.booleans())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_of_somebody_else_is_touched(tmp_path_factory, foreign, written, linked):
    folder = tmp_path_factory.mktemp("tree") / "run"
    run_folder(folder).open()
    outside = folder.parent / "outside.txt"
    outside.write_text("outside")
    if linked:
        (folder / "link").symlink_to(outside)
    for name, content in foreign.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    for name in written - foreign.keys():
        files.write_text(folder / name, name, record=True)
    run_folder(folder).open()
    assert {name: (folder / name).read_bytes() for name in foreign} == foreign
    assert outside.read_text() == "outside" and (folder / "link").is_symlink() == linked
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    assert left - foreign.keys() - {"link"} == {".lock", "config.yml", files.MANIFEST}


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_in_the_way_stops_a_run_before_it_begins(tmp_path, name, overwrite):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="was not written by this program"):
        run_folder(tmp_path, overwrite).open()
    assert (tmp_path / name).read_text() == "mine"


def test_a_link_in_the_place_of_ours_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("mine")
    folder = tmp_path / "run"
    run_folder(folder).open()
    (folder / "config.yml").unlink()
    (folder / "config.yml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link"):
        run_folder(folder).open()
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_a_linked_run_folder_is_not_cleared(tmp_path):
    run_folder(tmp_path / "other").open()
    (tmp_path / "run").symlink_to("other")
    with pytest.raises(UserError, match="is a link"):
        run_folder(tmp_path / "run").open()
    assert (tmp_path / "other" / "config.yml").exists()


def test_what_an_earlier_version_wrote_without_a_list_is_cleared(tmp_path):
    """Earlier manifests knew only files with a checksum."""
    for name in ("model.pth.tar", "config.yml", "run.json"):
        files.write_text(tmp_path / name, name, record=True)
    for name in ("metrics.jsonl", "confusion_matrix.png", "mine.png"):
        (tmp_path / name).write_text(name)
    (tmp_path / "tensorboard").mkdir()
    for name in ("events.out.tfevents.1.host", "notes.txt"):
        (tmp_path / "tensorboard" / name).write_text(name)
    run_folder(tmp_path).open()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == [
        *("config.yml", files.MANIFEST, "mine.png", "tensorboard"),
    ]
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_only_temporaries_of_ours_whose_writer_is_dead_go(tmp_path):
    dead, alive = dead_pid(), os.getppid()
    gone = [f"report.html.{dead}.partial", f"features-train.npy.share1.partial.{dead}.partial"]
    stay = ["download.partial", f"o.csv.{dead}.partial", f"report.html.{alive}.partial", "report.html.x.partial"]
    files.write_text(tmp_path / "report.html", "", listed=True)
    for name in gone + stay:
        (tmp_path / name).write_text("")
    files.remove_temporaries(tmp_path, ["features-train.npy"])
    assert sorted(path.name for path in tmp_path.glob("*.partial")) == sorted(stay)


@pytest.mark.slow
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    for pid in (dead_pid(), os.getppid()):
        (tmp_path / f"o.csv.{pid}.partial").write_text("")
    files.write_text(tmp_path / "o.csv", "rows")
    assert {path.name for path in tmp_path.iterdir()} == {"o.csv", f"o.csv.{os.getppid()}.partial"}


def test_a_listed_file_never_replaces_somebody_elses(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(UserError, match="was not written by this program"):
        files.write_text(tmp_path / "report.html", "ours", listed=True)
    assert (tmp_path / "report.html").read_text() == "mine"
    assert not files.remove(tmp_path / "report.html") and (tmp_path / "report.html").exists()


def test_a_named_file_is_written_where_a_link_leads(tmp_path):
    (tmp_path / "link.csv").symlink_to("target.csv")
    files.write_text(tmp_path / "link.csv", "rows")
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "target.csv").read_text() == "rows"


def test_a_folder_that_went_away_is_an_error_at_the_next_save(tmp_path):
    folder = tmp_path / "run"
    run = run_folder(folder)
    run.open()
    folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="deleted, moved or replaced"):
        write_record(run.folder, status="finished")
    assert not folder.exists()
    folder.mkdir()
    with pytest.raises(UserError, match="deleted, moved or replaced"):
        run.write_metrics([])
    assert list(folder.iterdir()) == []


def test_a_lock_of_somebody_else_is_not_emptied(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    with pytest.raises(UserError, match="was not written by this program"):
        lock.lock_folder(tmp_path)
    assert (tmp_path / ".lock").read_text() == "mine"


def test_nothing_is_cleared_through_a_link(tmp_path):
    files.write_text(tmp_path / "ours" / "a", "", listed=True)
    (tmp_path / "link").symlink_to("ours")
    owned.clear(tmp_path / "link")
    assert (tmp_path / "ours" / "a").exists()
    owned.clear(Path(tmp_path / "ours"))
    assert list((tmp_path / "ours").iterdir()) == []
