"""A network from scratch competes with pretrained features where minutes are given."""

import json

import pytest
import torch
import yaml

from recipes.choose import SCHEDULES, choose
from recipes.deliver import support
from recipes.features import Features, make_recipe
from recipes.look import look_at
from recipes.opening import start_project
from recipes.project import Project
from recipes.rival import fit, lengthen, request_of
from system.runtime import Runtime
from tests.recipes.test_refining import look
from tests.stage import command
from tests.stages.test_cluster import fill, read

pytestmark = pytest.mark.usefixtures("empty_pictures")


def words_for(folder, num_clusters, *more):
    words = [folder / "images", "--num_clusters", num_clusters, "--output", folder / "out"]
    return [*words, "--features", "efficientnet_lite0", "selflabel.epochs=1", *more]


def train_shortly(out, **more):
    """Edit the configs that a dry run wrote."""
    for stage, epochs in (("simclr", 1), ("scan", 20), ("selflabel", 1)):
        path = out / f"scratch/configs/{stage}.yml"
        content = yaml.safe_load(path.read_text()) | {"epochs": epochs, "confidence_threshold": 0.34}
        content |= more if stage == "scan" else {}
        path.write_text(yaml.safe_dump(content))


def verdict(out):
    return json.loads((out / "cluster.json").read_text())["result"]["verdict"]


@pytest.mark.slow
def test_both_ways_compete_and_the_one_with_more_support_is_handed_out(tmp_path, capsys, monkeypatch):
    fill(tmp_path / "images", 36)
    out = tmp_path / "out"
    assert command("cluster", *words_for(tmp_path, 3, "--minutes", 6, "--dry_run")) == 0
    train_shortly(out)
    setups = set()
    for taken in (False, True):  # whatever a network says after one epoch
        shares = iter([0.5, 0.6 if taken else 0.4])
        monkeypatch.setattr("recipes.deliver.support", lambda clusters, spaces, shares=shares: next(shares))
        assert command("cluster", *words_for(tmp_path, 3, "--minutes", 1000 + taken, "--leave_out", 0.1)) == 0
        shown, found = capsys.readouterr(), verdict(out)
        assert "learning features from scratch 1 epochs" in shown.out and "ended early" not in shown.err
        assert found["candidates"][-1]["name"] == "from scratch"
        assert found["reason"].startswith("from scratch: ") is taken
        assert ("0.600 and 0.500" if taken else "0.400 and 0.500") in found["reason"]
        setups.add(yaml.safe_load((out / "config.yml").read_text())["backbone"])
        assert command("predict", "--model", out, tmp_path / "images", "--output", tmp_path / "new.csv") == 0
        pairs = zip(read(tmp_path / "new.csv"), read(out / "clusters.csv"), strict=True)
        assert all(new["cluster"] == old["cluster"] for new, old in pairs)
    assert setups == {"efficientnet_lite0", "resnet8"}


@pytest.mark.slow
def test_training_from_scratch_that_fails_leaves_the_other_clusterings(tmp_path, capsys):
    fill(tmp_path / "images", 36)
    out = tmp_path / "out"
    assert command("cluster", *words_for(tmp_path, 3, "--minutes", 6, "--dry_run")) == 0
    train_shortly(out, num_neighbors=30)
    assert command("cluster", *words_for(tmp_path, 3)) == 0
    shown = capsys.readouterr().err
    assert "training from scratch ended early, and it found no clusters yet" in shown
    assert "20 neighbors per image, but 30 are asked for" in shown
    assert read(out / "clusters.csv") and not any(row["name"] == "from scratch" for row in verdict(out)["candidates"])


@pytest.mark.parametrize("competes", [False, True])
def test_another_clustering_in_its_folder_stays_and_its_own_is_forgotten_with_the_rest(tmp_path, capsys, competes):
    fill(tmp_path / "images", 36)
    out = tmp_path / "out"
    if not competes:
        words = [tmp_path / "images", "--num_clusters", 2, "--features", "scratch", "--output", out / "scratch"]
        assert command("cluster", *words, "--dry_run") == 0
    before = (out / "scratch/cluster.json").read_bytes() if not competes else b""
    assert command("cluster", *words_for(tmp_path, 3, "--minutes", 6, "--dry_run")) == 0
    assert ("no network from scratch competes" in capsys.readouterr().err) is not competes
    found = look_at(tmp_path / "images", 3)
    recipe = make_recipe(found, 3, "cpu", False, Features("efficientnet_lite0", "as asked"))
    project = Project(out, {"folder": str(tmp_path / "images"), "num_clusters": 3, "words": []})
    with project.hold():
        start_project(project, recipe, [], found, Runtime.start("cpu"), again=True)
    record = out / "scratch/cluster.json"
    assert not record.exists() if competes else record.read_bytes() == before


def test_what_is_said_of_the_clusters_holds_for_both(tmp_path):
    words = ["cluster_prior=power:0.5", "seed=3", "candidates.method_kwargs={}", "selflabel.epochs=1"]
    request = request_of(Project(tmp_path, {"num_clusters": 3, "features": "auto", "words": words}))
    assert request["words"] == words[:2] and request["num_clusters"] == 3


def test_more_minutes_are_more_epochs_up_to_those_of_a_gpu():
    recipe = choose(look(), 10, "cpu", quick=True)  # 2,000 images: 80, 30 and 20 epochs
    assert [config["epochs"] for config in lengthen(recipe, 2.0).configs.values()] == [160, 60, 40]
    most = [SCHEDULES["gpu"][stage].highest for stage in ("simclr", "scan", "selflabel")]
    assert [config["epochs"] for config in lengthen(recipe, 1e6).configs.values()] == most == [1000, 200, 200]


def test_a_slow_machine_has_half_the_epochs_or_a_quarter():
    recipe = choose(look(), 10, "cpu", quick=True)
    epochs = {}
    for seconds in (1.5, 2.4, 60.0):  # an epoch of every stage; of nine minutes 432 s may be trained
        found = fit(recipe, dict.fromkeys(recipe.configs, seconds), 9.0, 432.0)
        epochs[seconds] = [config["epochs"] for config in found.configs.values()]
    assert epochs == {1.5: [160, 60, 40], 2.4: [80, 30, 20], 60.0: [10, 4, 2]}  # the last one is not trained at all


def test_support_is_the_mean_over_kinds_of_neighbors():
    clusters = torch.tensor([0, 0, 0, 1, 1, 1])
    same = torch.tensor([[0, 1], [1, 0], [2, 0], [3, 4], [4, 3], [5, 3]])
    other = torch.tensor([[0, 3], [1, 4], [2, 5], [3, 0], [4, 1], [5, 2]])
    # Half of all pairs share a cluster by chance: all neighbors (1 - .5) / .5 = 1, no neighbor (0 - .5) / .5 = -1.
    assert support(clusters, [same, same]) == 1.0
    assert support(clusters, [same, other]) == 0.0
