"""Refining: it goes by the clock where it is asked to, ends by the label-free score, and competes with the rest."""

import json

import pytest
import torch

from tests.stage import command, stage
from tests.stages.test_cluster import fill, read

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """Two folders with the same scan model of few digits."""
    roots = [tmp_path_factory.mktemp(name) for name in ("whole", "stopped")]
    for root in roots:
        assert stage("simclr", root, "epochs=1") == 0
        assert stage("scan", root, "epochs=1") == 0
    return roots


def test_stopped_by_the_clock_and_continued_is_the_same_run(scanned, capsys):
    whole, stopped = scanned
    assert stage("selflabel", whole) == 0
    assert stage("selflabel", stopped, "minutes=1e-6") == 1
    assert "the same command with more minutes continues" in capsys.readouterr().err
    folder = stopped / "digits" / "selflabel"
    assert (folder / "checkpoint.pth.tar").exists() and not (folder / "model.pth.tar").exists()
    assert stage("selflabel", stopped, "minutes=100") == 0
    models = [torch.load(root / "digits/selflabel/model.pth.tar") for root in scanned]
    assert all(torch.equal(value, models[1][key]) for key, value in models[0].items())


def test_clusters_of_features_are_refined_while_there_are_minutes(tmp_path, capsys):
    fill(tmp_path / "images", 36)
    words = [tmp_path / "images", "--num_clusters", 3, "--output", tmp_path / "out", "--features", "embedded"]
    words += ["selflabel.optimizer_kwargs.lr=1e-12", "selflabel.epochs=9", "selflabel.patience=2"]
    assert command("cluster", *words, "--minutes", "0.001") == 0
    shown = capsys.readouterr()
    assert "refining ended early" in shown.err
    names = [row["name"] for row in verdict(tmp_path)["candidates"]]
    assert names[-2:] == ["vote", "self-labeling, best epoch"]  # it stopped after its first epoch
    before = read(tmp_path / "out/clusters.csv")

    assert command("cluster", *words, "--minutes", "1000") == 0
    result = json.loads((tmp_path / "out/runs/selflabel/run.json").read_text())["result"]
    engines = [
        json.loads((tmp_path / f"out/runs/{name}/run.json").read_text())["engine"] for name in ("pretext", "selflabel")
    ]
    assert engines[0] == engines[1] is not None
    assert result["ended"] == "no lower validation loss for 2 epochs"
    assert len((tmp_path / "out/runs/selflabel/metrics.jsonl").read_text().splitlines()) == 2
    found = verdict(tmp_path)
    assert [row["name"] for row in found["candidates"]] == [*names, "self-labeling, last epoch"]
    assert "no better by this rule" in found["reason"] and found["in_use"] == [3, 3]
    assert read(tmp_path / "out/clusters.csv") == before

    record = (tmp_path / "out/cluster.json").read_bytes()
    assert command("cluster", *words, "--num_clusters", 2, "--minutes", 1001) == 0  # of another number's refining
    assert (tmp_path / "out/cluster.json").read_bytes() == record
    assert command("cluster", *words, "--minutes", 5) == 0
    assert "this clustering is finished" in capsys.readouterr().out
    assert (tmp_path / "out/cluster.json").read_bytes() == record


def verdict(folder):
    return json.loads((folder / "out/cluster.json").read_text())["result"]["verdict"]
