"""Features of one's own from end to end: cluster.py, the stages by hand, eval.py and predict.py."""

import csv
import json
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from PIL import Image

from methods import candidates, scan_heads, temi
from system.files import write_text
from tests.methods.test_methods import blobs
from tests.stage import command
from utils.saved import find_earlier_labels, keep_labels

pytestmark = pytest.mark.slow
NUM_IMAGES, K = 60, 3
NAMES = [f"{'sub/' if i % 3 == 0 else ''}{i:02d}.png" for i in range(NUM_IMAGES)]
ORDER = sorted(NAMES, key=lambda name: ("/" in name, name))  # those of the folder itself, then of sub
ROWS, TRUTH = (part.numpy() for part in blobs(NUM_IMAGES, 8, K))


def run(script, *words):
    return command(script, *words)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Images that say nothing, of which one is damaged, and features in which three groups are plain to see."""
    base = tmp_path_factory.mktemp("given")
    (base / "images/sub").mkdir(parents=True)
    draws = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(draws.integers(0, 255, (8, 8)).astype(np.uint8)).save(base / "images" / name)
    (base / "images/01.png").write_bytes(b"no image")
    np.save(base / "own.npy", ROWS)
    order = draws.permutation(NUM_IMAGES)
    columns = {"path": [ORDER[i] for i in order] + ["gone.png"], "embedding": [*ROWS[order].tolist(), [0.0] * 8]}
    pyarrow.parquet.write_table(pyarrow.table(columns), base / "own.parquet")
    return base


def words(base, features, output="out"):
    return base / "images", "--num_clusters", K, "--features", base / features, "--output", base / output


@pytest.fixture(scope="module", params=["own.npy", "own.parquet"])
def finished(request, base):
    output = f"out-{request.param}"
    assert run("cluster", *words(base, request.param, output)) == 0
    return request.param, base / output


def read(path):
    return list(csv.DictReader(path.open(encoding="utf-8", newline="")))


def test_every_image_has_the_cluster_of_its_features_also_a_damaged_one(finished):
    _, output = finished
    rows = read(output / "clusters.csv")
    assert [row["path"] for row in rows] == ORDER
    assert len({(int(row["cluster"]), kind) for row, kind in zip(rows, TRUTH.tolist(), strict=True)}) == K
    assert "1 image could not be read for a thumbnail" in (output / "report.html").read_text()


def test_the_same_file_elsewhere_is_the_same_request_and_another_is_not(finished, base, tmp_path, capsys):
    name, output = finished
    shutil.copy(base / name, tmp_path / name)
    assert run("cluster", base / "images", "--num_clusters", K, "--features", tmp_path / name, "--output", output) == 0
    assert "finished" in capsys.readouterr().out
    np.save(tmp_path / "other.npy", ROWS + 1)
    other = words(base, tmp_path / "other.npy", output.name)
    assert run("cluster", *other) == 2
    assert "features was a file of SHA-256" in capsys.readouterr().err


def test_new_features_get_their_clusters_and_come_out_as_they_were(finished, base, tmp_path, capsys):
    _, output = finished
    expected = [row["cluster"] for row in read(output / "clusters.csv")]
    for name in ("own.npy", "own.parquet"):
        targets = ["--output", tmp_path / "new.csv", "--embeddings", tmp_path / "new.npy"]
        assert run("predict", "--model", output, base / "images", "--features", base / name, *targets) == 0
        rows = read(tmp_path / "new.csv")
        assert [row["path"] for row in rows] == [str(base / "images" / name) for name in ORDER]
        assert [row["cluster"] for row in rows] == expected
        assert np.array_equal(np.load(tmp_path / "new.npy"), ROWS)
    assert run("predict", "--model", output, "--features", base / "own.parquet", "--output", tmp_path / "new.csv") == 0
    assert sorted(row["path"] for row in read(tmp_path / "new.csv")) == sorted([*ORDER, "gone.png"])
    assert (
        run("predict", "--model", output, base / "images", "--features", base / "own.npy", "--link_to", tmp_path / "x")
        == 0
    )
    assert len(list((tmp_path / "x").glob("*/*.png"))) == NUM_IMAGES


def test_labels_need_the_images_that_were_clustered(finished, base, tmp_path, capsys):
    _, output = finished
    table = tmp_path / "given.csv"
    table.write_text("path,label\n" + "".join(f"{name},{kind}\n" for name, kind in zip(ORDER, TRUTH, strict=True)))
    (base / "images/new.png").write_bytes((base / "images" / NAMES[0]).read_bytes())
    try:
        assert run("label", output, table) == 1
        assert "changed since they were clustered" in capsys.readouterr().err
        assert not (output / "labels.csv").exists()
    finally:
        (base / "images/new.png").unlink()
    assert run("label", output, table) == 0 and (output / "labels/model.pth.tar").exists()
    given = (output / "labels.csv").read_bytes()
    assert run("cluster", *words(base, finished[0], output.name), "overwrite=true") == 0
    assert not (output / "labels").exists() and not (output / "labels.csv").exists()
    assert (output / "labels-earlier.csv").read_bytes() == given
    said = capsys.readouterr()
    assert "are kept as" in said.out and "labels-earlier.csv takes them over" in said.err
    write_text(output / "labels.csv", "path,label\n", listed=True)
    assert keep_labels(output).name == "labels-earlier-2.csv" == find_earlier_labels(output).name
    assert keep_labels(output) is None
    assert run("label", output, output / "labels-earlier.csv") == 0
    assert [row["label"] for row in read(output / "labels.csv")] == [str(kind) for kind in TRUTH]


def test_the_configs_run_by_hand_and_are_scored(finished, base, tmp_path, capsys):
    _, output = finished
    env, exp = output / "configs/env.yml", output / "configs/candidates.yml"
    assert yaml.safe_load(exp.read_text())["backbone"] == "given/8"
    more = ["--config_env", env, "--config_exp", exp, "run_name=again"]
    assert run("methods.candidates", *more) == 0
    assert run("eval", *more, "--report", "--out", tmp_path, "--json", tmp_path / "x.json") == 0
    assert (tmp_path / "report.html").exists()
    assert json.loads((tmp_path / "x.json").read_text()) == {}  # not every image is in a sub-directory
    assert run("eval", "--config_env", env, "--config_exp", output / "configs/pretrained.yml") == 0
    assert "purity of the neighbors is unknown" in capsys.readouterr().out


def test_clusters_that_may_differ_in_size_are_for_every_method_that_knows_of_it(finished, monkeypatch):
    _, output = finished
    given, make = [], candidates.make_candidates
    monkeypatch.setattr(candidates, "make_candidates", lambda *all_: given.append(all_[5]) or make(*all_))
    more = ["--config_env", output / "configs/env.yml", "--config_exp", output / "configs/candidates.yml"]
    for name, prior in (("even", "uniform"), ("uneven", "power:0.5")):
        assert run("methods.candidates", *more, f"run_name={name}", f"cluster_prior={prior}") == 0
    assert [options[temi.fit] for options in given] == [{"beta": 0.6}, {"beta": 1.0}]
    assert [options[scan_heads.fit] for options in given] == [
        {"cluster_prior": "uniform"},
        {"cluster_prior": "power:0.5"},
    ]


@pytest.mark.parametrize(
    ("more", "code", "sentence"),
    [
        ([], 2, "give those of the new images, made in the same way: --features NEW.npy"),
        (["--features", "short.npy"], 1, "features of 59 images, but there are 60"),
        (["--features", "narrow.npy"], 1, "has 7 numbers an image, but those of the model have 8"),
        (["--features", "gone.npy"], 1, "do not exist"),
        (["--features", "own.npy", "--output", "own.npy"], 2, "must end with"),
        (["--features", "own.npy", "--output", "x.csv", "--embeddings", "own.npy"], 2, "which is read"),
    ],
)
def test_predict_says_what_a_model_of_features_lacks(finished, base, more, code, sentence, capsys):
    np.save(base / "short.npy", ROWS[1:])
    np.save(base / "narrow.npy", ROWS[:, 1:])
    _, output = finished
    given = [base / word if word.endswith((".npy", ".csv")) else word for word in more]
    assert run("predict", "--model", output, base / "images", *given) == code
    error = capsys.readouterr().err
    assert sentence in error and error.count("error:") == 1


def changed(row, value):
    rows = ROWS.copy()
    rows[row, 0] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (ROWS[1:], "features of 59 images, but there are 60"),
        (changed(7, np.nan), f"first in row 7, that of '{ORDER[7]}'"),
        (np.ones_like(ROWS), "are alike, so there is nothing to group"),
        (ROWS.astype(int), "features are floats"),
    ],
)
def test_features_that_do_not_do_are_refused_before_anything_is_written(base, rows, sentence, tmp_path, capsys):
    np.save(tmp_path / "x.npy", rows)
    assert run("cluster", *words(base, tmp_path / "x.npy", "none")) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("error:") == 1
    assert not (base / "none").exists()


def test_features_that_are_not_there_or_of_another_kind(base, capsys):
    for name, code, sentence in (
        ("gone.npy", 1, "cannot be read: no such file"),
        ("own.csv", 2, "it is auto, embedded"),
    ):
        assert run("cluster", *words(base, name, "none")) == code
        assert sentence in capsys.readouterr().err
    assert not (base / "none").exists()


def test_what_is_far_from_all_clusters_is_in_none_in_every_table_and_named_later(base, tmp_path, capsys):
    """Three of 60 images are left out; a model that leaves some out says the same of the same images."""
    output = tmp_path / "out"
    asked = base / "images", "--num_clusters", K, "--features", base / "own.npy", "--output", output
    assert run("cluster", *asked) == 0
    whole = read(output / "clusters.csv")
    assert run("cluster", *asked, "--leave_out", 0.05) == 0
    said = capsys.readouterr().out
    assert "left out: 3 images" in said and json.loads((output / "cluster.json").read_text())["leave_out"] == 0.05
    rows = read(output / "clusters.csv")
    out = [row["path"] for row in rows if row["cluster"] == "-1"]
    assert len(out) == 3 and all(float(row["confidence"]) == 0 for row in rows if row["path"] in out)
    assert [row for row in rows if row["path"] not in out] == [row for row in whole if row["path"] not in out]
    page = (output / "report.html").read_text()
    assert 'id="cluster--1"' in page and "3 images are far from all clusters" in page
    assert run("cluster", *asked) == 0 and read(output / "clusters.csv") == rows  # it stays as it was asked for

    new = ["--features", base / "own.npy", "--output", tmp_path / "new.csv"]
    assert run("predict", "--model", output, base / "images", *new, "--top_k", 2, "--link_to", tmp_path / "to") == 0
    found = read(tmp_path / "new.csv")
    assert [row["cluster"] for row in found] == [row["cluster"] for row in rows]
    would = {row["path"]: row["cluster"] for row in whole}
    assert all(row["cluster_2"] == would[name] for name, row in zip(ORDER, found, strict=True) if name in out)
    assert len(list((tmp_path / "to/other").iterdir())) == 3
    assert run("cluster", *asked, "--link_to", tmp_path / "links") == 0
    assert len(list((tmp_path / "links/other").iterdir())) == 3

    table = tmp_path / "given.csv"
    kept = [(name, kind) for name, kind in zip(ORDER, TRUTH, strict=True) if name not in out]
    table.write_text("path,label\n" + "".join(f"{name},kind {kind}\n" for name, kind in kept))
    assert run("label", output, table) == 0
    assert run("predict", "--model", output, base / "images", *new) == 0
    assert [name for name, row in zip(ORDER, read(tmp_path / "new.csv"), strict=True) if not row["label"]] == out
    table.write_text(table.read_text() + f"{out[0]},kind 0\n")
    assert run("label", output, table) == 0
    assert "no new image is left out, as an image that was left out has a name" in capsys.readouterr().out
    assert run("predict", "--model", output, base / "images", *new) == 0
    assert all(row["label"] for row in read(tmp_path / "new.csv"))

    assert run("cluster", *asked) == 0 and "made of other clusters" not in capsys.readouterr().err
    assert run("cluster", *asked, "--leave_out", 0) == 0 and read(output / "clusters.csv") == whole
    said = capsys.readouterr().err
    assert "made of other clusters" in said and f"label.py {output} {output / 'labels.csv'}" in said
    assert run("label", output, output / "labels.csv") == 0
    names = [row["label"] for row in read(output / "labels.csv") if row["path"] not in out[1:]]
    assert sorted(names) == sorted([f"kind {kind}" for _, kind in kept] + ["kind 0"])
    assert run("cluster", *asked, "--leave_out", 1) == 2
    assert "1 is neither auto nor a number from 0 to below 1" in capsys.readouterr().err
