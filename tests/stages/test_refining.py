"""Refining: it goes by the clock where it is asked to, ends by the label-free score, and competes with the rest."""

import json
import shutil

import pytest
import torch
import yaml

from tests import stage as stages
from tests.stage import command, few_digits
from tests.stages.test_cluster import fill, read
from utils.config import REPOSITORY, load_config
from utils.stage import keys_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("empty_pictures")]


def stage(script, root, *more):
    return stages.stage(script, root, *few_digits(200, 100), *more)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """Folders with the same scan model of few digits."""
    first, *others = (tmp_path_factory.mktemp(name) for name in ("whole", "stopped", "longer"))
    for script in ("simclr", "scan"):
        assert stage(script, first, "epochs=1") == 0
    for root in others:
        shutil.copytree(first, root, dirs_exist_ok=True)
    return [first, *others]


def test_stopped_by_the_clock_and_continued_is_the_same_run(scanned, capsys):
    whole, stopped, _ = scanned
    assert stage("selflabel", whole) == 0
    assert stage("selflabel", stopped, "minutes=1e-6", "overwrite=true") == 1
    assert "the command without overwrite=true with more minutes continues" in capsys.readouterr().err
    assert stage("selflabel", stopped, "minutes=1e-6") == 1
    assert "the same command with more minutes continues" in capsys.readouterr().err
    folder = stopped / "digits" / "selflabel"
    assert not (folder / "model.pth.tar").exists()
    told = json.loads((folder / "run.json").read_text())["seconds"]  # counts in what others may take
    assert told >= round(torch.load(folder / "checkpoint.pth.tar")["seconds"], 3)
    assert stage("selflabel", stopped, "minutes=100") == 0
    assert same_weights(whole, stopped)


def test_epochs_may_grow_only_where_no_step_depends_on_how_many_there_are():
    words = ["minutes=1", "scheduler=constant"]
    config = REPOSITORY / "configs/pretext/simclr_digits.yml"
    assert keys_of(load_config(None, config, [*words, "scheduler_kwargs={}"])).growing == ("epochs",)
    assert keys_of(load_config(None, config, [*words, "scheduler_kwargs={warmup_epochs: 2}"])).growing == ()
    assert keys_of(load_config(None, config, words[:1])).growing == ()
    config = REPOSITORY / "configs/pretext/byol_digits.yml"  # the target's momentum rises over the epochs
    assert keys_of(load_config(None, config, [*words, "scheduler_kwargs={}"])).growing == ()


def test_more_epochs_by_the_clock_continue_a_finished_run(scanned, capsys):
    whole, _, longer = scanned
    assert stage("selflabel", whole) == 0
    assert stage("selflabel", longer, "epochs=1") == 0
    assert stage("selflabel", longer, "epochs=2") == 2
    assert "epochs differs" in capsys.readouterr().err
    assert stage("selflabel", longer, "epochs=2", "minutes=100") == 0
    assert same_weights(whole, longer)
    assert stage("selflabel", longer, "epochs=1", "minutes=100") == 2  # fewer are another run


def same_weights(*roots):
    models = [torch.load(root / "digits/selflabel/model.pth.tar") for root in roots]
    return all(torch.equal(value, models[1][key]) for key, value in models[0].items())


def test_clusters_of_features_are_refined_while_there_are_minutes(tmp_path, capsys):
    fill(tmp_path / "images", 36)
    words = [tmp_path / "images", "--num_clusters", 3, "--output", tmp_path / "out", "--features", "efficientnet_lite0"]
    words += ["selflabel.optimizer_kwargs.lr=1e-12", "selflabel.epochs=9", "selflabel.patience=2"]
    assert command("cluster", *words, "--minutes", "0.001") == 0
    shown = capsys.readouterr()
    assert (
        "refining ended early, and the result so far competes: it did not begin, as no time is left of --minutes"
        in shown.err
    )
    names = [row["name"] for row in verdict(tmp_path)["candidates"]]
    assert names[-1] == "vote" and not (tmp_path / "out/runs/selflabel/run.json").exists()
    before = read(tmp_path / "out/clusters.csv")

    assert command("cluster", *words, "--minutes", "5") == 0
    result = json.loads((tmp_path / "out/runs/selflabel/run.json").read_text())["result"]
    engines = [
        json.loads((tmp_path / f"out/runs/{name}/run.json").read_text())["engine"] for name in ("pretext", "selflabel")
    ]
    assert engines[0] == engines[1] is not None
    assert result["ended"] == "no lower validation loss for 2 epochs"
    assert len((tmp_path / "out/runs/selflabel/metrics.jsonl").read_text().splitlines()) == 2
    found = verdict(tmp_path)
    more = ["self-labeling, best epoch"]  # the last one is as good
    assert [row["name"] for row in found["candidates"]] == [*names, *more]
    assert "no better by this rule" in found["reason"] and found["in_use"] == [3, 3]
    assert read(tmp_path / "out/clusters.csv") == before

    record = (tmp_path / "out/cluster.json").read_bytes()
    assert command("cluster", *words, "--num_clusters", 2, "--minutes", 5.5) == 0  # of another number's refining
    assert (tmp_path / "out/cluster.json").read_bytes() == record
    assert command("cluster", *words, "--minutes", 4) == 0
    assert "this clustering is finished" in capsys.readouterr().out
    assert (tmp_path / "out/cluster.json").read_bytes() == record


def test_refining_that_fails_leaves_the_other_clusterings(tmp_path, capsys):
    fill(tmp_path / "images", 36)
    words = ["--num_clusters", 3, "--output", tmp_path / "out", "--features", "efficientnet_lite0"]
    words += ["selflabel.optimizer=sgd", "selflabel.optimizer_kwargs={lr: 1000, weight_decay: 1000}"]  # · -10⁶ a step
    assert command("cluster", tmp_path / "images", *words, "selflabel.batch_size=4") == 0
    shown = capsys.readouterr()
    assert "refining ended early, and the result so far competes" in shown.err and "no longer finite" in shown.err
    assert read(tmp_path / "out/clusters.csv") and (tmp_path / "out/report.html").exists()


@pytest.mark.parametrize(
    ("more", "epochs"),
    [([3], 10), ([3, "--quick"], None), (["3,4"], None), (["3,4", "--minutes", 9], 30), ([3, "--minutes", 9], 30)],
)
def test_what_is_refined_for_how_long_follows_from_the_command(tmp_path, more, epochs):
    fill(tmp_path / "images", 36)
    words = [tmp_path / "images", "--output", tmp_path / "out", "--features", "embedded", "--dry_run"]
    assert command("cluster", *words, "--num_clusters", *more) == 0
    project = tmp_path / "out" / ("k03" if more[0] == "3,4" else "")
    assert ("selflabel" in json.loads((project / "cluster.json").read_text())["stages"]) is (epochs is not None)
    if epochs:
        assert yaml.safe_load((project / "configs/selflabel.yml").read_text())["epochs"] == epochs


def verdict(folder):
    return json.loads((folder / "out/cluster.json").read_text())["result"]["verdict"]
