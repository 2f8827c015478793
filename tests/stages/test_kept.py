"""Which epoch a stage keeps, when it ends early, and at what rate it trains."""

import json
import shutil

import pytest
import torch

from clustering.validation import HeadScores, Validator
from tests import stage as stages

pytestmark = pytest.mark.usefixtures("signals", "empty_pictures")


def stage(script, root, *more):
    return stages.stage(script, root, *stages.few_digits(96, 48), *more)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A results folder with the pretext task's files, and the scan stage's."""
    root = tmp_path_factory.mktemp("begun")
    for script in ("simclr", "scan"):
        assert stage(script, root) == 0
    return root


@pytest.fixture
def root(begun, tmp_path):
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    return tmp_path


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def result(folder):
    return json.loads((folder / "run.json").read_text())["result"]


def same(one, other):
    return one.keys() == other.keys() and all(value.equal(other[key]) for key, value in one.items())


def validated(monkeypatch, losses, used=None):
    """Have validation give these losses and numbers of clusters in use; returns the weights that it saw, in a list."""
    seen = []

    def best_head(self, model):
        seen.append({key: value.clone() for key, value in model.state_dict().items()})
        sizes = torch.full((10,), 5)
        sizes[(used or [10] * len(losses))[len(seen) - 1] :] = 0
        return HeadScores(0, losses[len(seen) - 1], sizes, {})

    monkeypatch.setattr(Validator, "best_head", best_head)
    return seen


def test_scan_keeps_the_first_epoch_of_the_lowest_validation_loss(root, monkeypatch):
    seen = validated(monkeypatch, [-1.0, -2.0, -2.0])
    assert stage("scan", root, "run_name=x", "epochs=3") == 0
    folder = root / "digits/scan/x"
    assert same(torch.load(folder / "model.pth.tar")["model"], seen[1]) and not same(seen[1], seen[2])
    assert (result(folder)["best_loss"], result(folder)["best_epoch"]) == (-2.0, 2)


def test_self_labeling_keeps_its_best_epoch_and_its_last(root, monkeypatch):
    seen = validated(monkeypatch, [-9.0, -1.0, -2.0, -2.0])  # the first is that of the start, which is no epoch
    assert stage("selflabel", root, "run_name=x", "epochs=3") == 0
    folder = root / "digits/selflabel/x"
    assert same(torch.load(folder / "model-best.pth.tar"), seen[2])
    assert same(torch.load(folder / "model.pth.tar"), seen[3]) and not same(seen[2], seen[3])
    found = result(folder)
    assert [found[key] for key in ("scan_loss", "best_loss", "best_epoch", "last_loss")] == [-9.0, -2.0, 2, -2.0]


@pytest.mark.parametrize(
    ("losses", "used", "ended", "epochs"),
    [
        ([-1, -2, -3, -4], [10, 10, 9, 9], "clusters emptied", 2),
        ([-3, -2, -1, -1], [10] * 4, "no lower validation loss for 2 epochs", 2),  # the start counts
        ([-1, -2, -1.5, -2], [9, 10, 9, 9], "no lower validation loss for 2 epochs", 3),  # an equal one is not lower
        ([-1, -2, -1.5, -3], [10] * 4, None, 3),
    ],
)
def test_patience_ends_self_labeling(root, monkeypatch, losses, used, ended, epochs):
    validated(monkeypatch, losses, used)
    assert stage("selflabel", root, "run_name=x", "epochs=3", "patience=2") == 0
    folder = root / "digits/selflabel/x"
    assert (result(folder).get("ended"), len(metrics(folder))) == (ended, epochs)
    assert result(folder)["emptied"] == used[0] - used[epochs]


def test_the_rate_of_an_epoch_is_that_of_the_schedule(begun):
    """Half a cosine over two epochs from .005 to .005 · .1³: all of it, then the middle."""
    rates = [line["lr"] for line in metrics(begun / "digits/pretext")]
    assert rates == pytest.approx([0.005, (0.005 + 0.000005) / 2])
