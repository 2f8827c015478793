"""More minutes for a clustering that is there, and the time that is then left."""

import json
import math

import pytest
import torch
import yaml

from recipes import running
from recipes.choose import choose
from recipes.display import Work
from recipes.minutes import comes_too_late, may_compete, seconds_left, seconds_to_train, take_minutes, time_words
from recipes.project import Project
from recipes.running import run_stage
from system.files import write_text
from system.runtime import Runtime
from tests.recipes.test_refining import lite0, look


@pytest.fixture
def project(tmp_path):
    """Refined by default, in three epochs."""
    project = Project(tmp_path, {"num_clusters": 5, "words": []})
    project.configs.write_env(Runtime(torch.device("cpu"), torch.float32, torch.float32))
    project.configs.write(lite0(), ["selflabel.epochs=3"])
    project.facts |= {"stages": ["pretrained", "candidates", "selflabel"], "result": {"model": "model.pth.tar"}}
    project.fingerprint, project.num_images = "abc", 9
    project.write()
    return project


def finish(project, **result):
    folder = project.folder / "runs/selflabel"
    folder.mkdir(parents=True)
    write_text(folder / "run.json", json.dumps({"status": "finished", "seconds": 9.0, "result": result}), record=True)
    write_text(folder / "metrics.jsonl", '{"epoch": 1}\n' * 3, record=True)
    return Work("refining", folder, 30, 1.0)


def epochs(project):
    return yaml.safe_load(project.configs.path("selflabel").read_text())["epochs"]


def test_refining_goes_on_and_the_epochs_to_come_are_time_that_is_left(project):
    work = finish(project, last_loss=1.0)
    take_minutes(project, 5.0)
    assert (project.facts["minutes"], project.facts["result"], epochs(project)) == (5.0, None, 30)
    assert work.epochs_done() == 3


def test_refining_that_ended_by_itself_is_left_as_it_is(project, capsys):
    work = finish(project, ended="clusters emptied")
    take_minutes(project, 5.0)
    assert project.facts["result"] and epochs(project) == 3
    assert "ended by itself before (clusters emptied), and more minutes change nothing" in capsys.readouterr().out
    assert work.epochs_done() == 30


def test_minutes_take_no_epoch_away(project):
    path = project.configs.path("selflabel")
    path.write_text(path.read_text().replace("epochs: 3", "epochs: 50"))
    take_minutes(project, 5.0)
    assert epochs(project) == 50


def test_all_training_from_scratch_shares_the_minutes_with_the_rest(project, tmp_path):
    rival = Project(tmp_path / "scratch", {"num_clusters": 5, "words": []})
    rival.configs.write_env(Runtime(torch.device("cpu"), torch.float32, torch.float32))
    rival.configs.write(choose(look(), 5, "cpu"), [])
    for one, stage, seconds in ((project, "pretext", 60.0), (project, "candidates", 30.0), (rival, "pretext", 90.0)):
        folder = one.folder / "runs" / stage
        folder.mkdir(parents=True)
        record = {"status": "finished", "seconds": seconds} | ({"result": {}} if stage == "pretext" else {})
        write_text(folder / "run.json", json.dumps(record), record=True)
    project.rival, rival.rival = rival, project
    project.facts["minutes"] = rival.facts["minutes"] = 6.0
    assert time_words(project, "candidates") == []
    assert time_words(rival, "simclr") == ["minutes=4.500"]  # its own seconds so far are no others'
    assert time_words(rival, "scan") == time_words(project, "selflabel") == ["minutes=3.000"]
    assert seconds_left(project) == seconds_left(rival) == 180.0
    project.facts["seconds"] = {"pretrained": 5.0, "candidates": 20.0, "selflabel": 9.0}
    assert seconds_to_train(project) == seconds_to_train(rival) == 160.0  # features are finished
    project.facts["minutes"] = 2.0
    assert time_words(project, "selflabel") == ["minutes=0.001"] and seconds_left(project) == 0.0
    assert comes_too_late(project, "selflabel") and not comes_too_late(project, "candidates")
    assert not comes_too_late(rival, "scan")  # its own minutes are enough
    rival.facts["minutes"] = 2.0
    assert comes_too_late(rival, "scan")
    begun = project.folder / "runs/selflabel"
    begun.mkdir()
    write_text(begun / "run.json", json.dumps({"status": "running", "seconds": 1.0}), record=True)
    assert not comes_too_late(project, "selflabel")  # it says itself what it comes to
    project.facts["minutes"] = None
    assert seconds_left(project) == math.inf
    rival.rival = None  # by itself, minutes are for refining
    assert time_words(rival, "scan") == []


def test_where_memory_is_full_what_there_is_competes(project, monkeypatch):
    def fill(words):
        raise MemoryError

    monkeypatch.setattr(running, "main_of", lambda stage: fill)
    work = Work("refining", project.folder, 30, 1.0)
    assert run_stage(project, "selflabel", work).startswith("the machine's memory is full")
    with pytest.raises(MemoryError):
        run_stage(project, "candidates", work)


@pytest.mark.parametrize(
    ("features", "given", "competes"),
    [("efficientnet_lite0", 6.0, True), ("efficientnet_lite0", 5.9, False), ("given/8", 60.0, False)],
)
def test_from_six_minutes_on_a_network_from_scratch_competes_with_pretrained_ones(features, given, competes):
    assert may_compete(features, given) is competes
    assert not may_compete(features, None)
