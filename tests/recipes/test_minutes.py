"""More minutes for a clustering that is there, and the time that is then left."""

import json

import pytest
import torch
import yaml

from recipes.display import Work
from recipes.minutes import take_minutes
from recipes.project import Project
from system.files import write_text
from system.runtime import Runtime
from tests.recipes.test_refining import lite0


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
