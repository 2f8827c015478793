"""The ablations: every row's commands are valid, a row runs, resumes and is told; what is not there is unrun."""

import argparse
import json

import numpy as np
import pytest

from benchmarks import ablation_tables, ablations
from benchmarks.ablation_rows import ROWS
from sweeps.plan import make_plan
from system.errors import ConfigError
from tests.data.test_mnist import idx
from utils.config import load_config
from utils.setups import SETUPS

MACHINE = {
    "cpu": "a CPU", "device": "cpu, 1 threads", "threads": 1, "cores": 2, "commit": "abc", "versions": {"torch": "2.0"},
}  # fmt: skip


def bench(folder, **changes):
    given = {"folder": folder, "overrides": [], "data": folder, "mnist": folder, "minutes": None, "out": folder}
    return ablations.Bench(argparse.Namespace(**given | changes))


@pytest.mark.parametrize("name", ROWS)
def test_the_commands_of_a_row_are_valid_and_follow_one_another(name, tmp_path):
    runs, made = bench(tmp_path), set()
    for step in ROWS[name].steps:
        words = runs.words(step)
        assert words[:2] == ["--config_env", str(tmp_path / "env.yml")]
        stage = SETUPS[step.setup].stage
        if step.sweep:
            plan = make_plan(stage, words[1], {stage: words[3]}, words[4:])
            assert len(plan.settings) > 1
            p = plan.jobs[0].config()
        else:
            p = load_config(words[1], words[3], words[4:])
            made.add(p[f"{stage}_dir"])
        assert p.setup == step.setup
        assert str(p[f"{stage}_dir"]).startswith(str(tmp_path))
        if SETUPS[step.setup].starts_from:
            assert p[f"{SETUPS[step.setup].starts_from}_dir"] in made, "an earlier step has made it"


def write_mnist(root):
    draws = np.random.default_rng(0)
    for part, num in (("train", 120), ("t10k", 40)):
        labels = (np.arange(num) % 10).astype(np.uint8)
        images = draws.integers(0, 60, (num, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 4] = 255  # a stripe whose height is the label
        (root / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (root / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))


@pytest.mark.slow
def test_a_row_runs_is_written_and_is_not_run_again(tmp_path, capsys):
    write_mnist(tmp_path)
    out = tmp_path / "out.json"
    words = ["--folder", str(tmp_path / "runs"), "--out", str(out), "--mnist", str(tmp_path), "--only", "mnist-kmeans"]
    assert ablations.main([*words, "method_kwargs.num_dims=5"]) == 0
    row = json.loads(out.read_text())["rows"]["mnist-kmeans"]
    assert row["scores"]["acc"] > 0.9
    assert row["overrides"] == ["method_kwargs.num_dims=5"]
    assert row["seconds"]["kmeans"] > 0
    assert row["commands"] == [
        "python -m methods.kmeans --config_env RUNS/env.yml --config_exp configs/methods/kmeans_mnist.yml "
        "method_kwargs.num_dims=5"
    ]
    assert {"commit", "versions", "cpu", "command"} <= row["machine"].keys()
    assert ablations.main(words) == 0
    assert "mnist-kmeans is there" in capsys.readouterr().out


@pytest.mark.slow
def test_a_row_whose_minutes_are_over_is_not_written(tmp_path, capsys):
    out = tmp_path / "out.json"
    words = ["--folder", str(tmp_path / "runs"), "--out", str(out), "--only", "digits-scan-strong"]
    assert ablations.main([*words, "--minutes", "1e-6"]) == 0
    assert "the same command goes on from here" in capsys.readouterr().out
    assert not out.exists()


def test_rows_that_lack_their_data_are_left_out_or_refused(tmp_path):
    runs = bench(tmp_path, data=None, mnist=None)
    assert {name for name, row in ROWS.items() if not runs.can_run(row)} == {
        name for name in ROWS if name.startswith("digits")
    }


def test_warnings_that_differ_in_numbers_only_are_one(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("epoch 1\nwarning: 3 clusters are empty\nwarning: 4 clusters are empty\nwarning: it collapses\n")
    assert ablations.warnings_of(log) == ["3 clusters are empty", "it collapses"]


def row(title, **more):
    return {
        "title": title,
        "scores": {},
        "seconds": {"x": 90.0},
        "warnings": {},
        "overrides": [],
        "machine": MACHINE,
        **more,
    }


def test_tables_say_what_is_there_and_what_is_unrun():
    sweep = [
        {"num_neighbors": "5", "acc_mean": "0.9", "num_runs": "3"},
        {"num_neighbors": "50", "acc_mean": "0.8", "num_runs": "3"},
    ]
    collapsed = row("x", scores={"acc": 0.1}, warnings={"selflabel": ["2 clusters are empty"]})
    rows = {
        "pretext-published": row("SimCLR", scores={"knn": 0.5, "scan": 0.61, "scan_loss": -1.234}),
        "pretext-byol": row("BYOL", scores={"knn": 0.25}, machine=MACHINE | {"load_average": [9.0, 9.0, 9.0]}),
        "cifar10-selflabel-simclr": collapsed,
        "digits-neighbors": row("x", sweep=sweep),
    }

    def read(name):
        assert name == "ablations.json"
        return {"rows": rows}

    lines = ablation_tables.pretext(read).splitlines()
    assert (
        "| SimCLR, temperature .1 | 50.0 |  |  | 61.0 |  | 2 | K-means 65.9, then SCAN and self-labeling 87.6 |"
        in lines
    )
    assert "| BYOL | 25.0 |  |  |  |  | ≤ 2 | K-means 89.4, not in SCAN's paper |" in lines, (
        "the machine did other work"
    )
    assert (
        "| rotation | unrun | unrun | unrun | unrun | unrun |  | K-means 27.1, then SCAN and self-labeling 74.3 |"
        in lines
    )
    assert "pretext-published, pretext-byol: a CPU, 1 of 2 cores, torch 2.0, commit abc." in lines[-1]
    assert "of each pretext task itself, SimCLR, temperature .1: -1.23." in lines[-1]
    assert "it said: 2 clusters are empty." in ablation_tables.views(read)
    table = ablation_tables.sweeps(read)
    assert "| 5: 90.0, 50: 80.0; seeds: 3 | flat from 5 to 50 |" in table
    assert (
        table.count("![") == 1
        and "![digits: number of neighbors K](../benchmarks/results/digits-neighbors.png)" in table
    )
    assert ablation_tables.mnist(read).count("unrun") == 3 * 8


def test_what_changes_bring_is_told_over_the_seeds_that_are_there():
    seconds = {"simclr": 4800.0, "scan": 600.0, "selflabel": 900.0}
    rows = {
        f"changes-fixmatch-{seed}": row(
            "x",
            scores={"kmeans": 0.5, "scan": scan, "selflabel": last, "scan_loss": -2.5, "last_loss": -2 * last},
            seconds=seconds | {"scan": 600.0 + seed},
        )
        for seed, scan, last in ((0, 0.5, 0.6), (2, 0.6, 0.64))
    }
    rows["changes-average-1"] = row("x", scores={"scan": 0.5, "selflabel": 0.61}, seconds=seconds)
    lines = ablation_tables.changes(lambda name: {"rows": rows}).splitlines()
    assert "| average of weights in self-labeling |  | 50.0 | 61.0 |  | 80, 10, 15 | 1 |" in lines, (
        "no deviation of one"
    )
    assert (
        "| FixMatch, average of weights | 50.0 | 55.0 ± 7.1 | 62.0 ± 2.8 | -2.500, -1.240 | 80, 10, 15 | 2 |" in lines
    )
    assert "| SimCLR by Muon, 60 epochs instead of 90 | unrun | unrun | unrun | unrun |  |  |" in lines


def test_what_changes_bring_after_half_the_pretext_task_is_a_table_of_its_own():
    scores = {"kmeans": 0.492, "scan": 0.568, "selflabel": 0.62, "scan_loss": -1.7235, "last_loss": -1.2708}
    rows = {"half-longer": row("x", scores=scores, seconds={"simclr": 1980.0, "scan": 480.0, "selflabel": 1440.0})}
    lines = ablation_tables.half_changes(lambda name: {"rows": rows}).splitlines()
    assert "| twice the epochs of self-labeling | 49.2 | 56.8 | 62.0 | -1.724, -1.271 | 33, 8, 24 | 1 |" in lines
    assert "| three times the epochs of SCAN | unrun | unrun | unrun | unrun |  |  |" in lines


def test_changes_of_the_last_stage_start_from_the_same_runs():
    steps = {name: ablations.ROWS[f"half-{name}"].steps for name in ("recipe", "longer", "scan-longer")}
    assert steps["recipe"][:2] == steps["longer"][:2]
    assert steps["recipe"][1] == ablations.ROWS["cifar10-scan-strong"].steps[1]._replace(scores={"scan": "acc"})
    assert "scan_run=views-strong" in steps["longer"][2].words and "epochs=40" in steps["longer"][2].words
    assert "epochs=24" in steps["scan-longer"][1].words and "scan_run=half-scan-longer" in steps["scan-longer"][2].words


def test_rows_are_chosen_by_how_their_names_begin():
    assert ablations.chosen(["half-longer", "mnist-ucc"]) == ["mnist-ucc", "half-longer"]
    assert len(ablations.chosen(["changes-"])) == 12  # 4 changes, three seeds each
    assert ablations.chosen(None) == list(ROWS)
    with pytest.raises(ConfigError, match="no row begins with nonsense; --list lists them"):
        ablations.main(["--only", "mnist", "--only", "nonsense"])
