import csv
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from torchvision.datasets import ImageFolder

from models.weights import read_weights, save_weights
from report.edits import read_clusters
from report.outputs import encode_rows
from system import files
from system.errors import UserError
from system.text import csv_path
from tests.stage import command
from tests.stages.test_predict import CONFIG
from training.comparison import to_plain
from utils.common_config import get_model
from utils.config import load_config
from utils.saved import find_model

pytestmark = pytest.mark.slow
NAMES = ["=left.png", "<b>1<b>.png", "two words.png", *(f"{i:02d}.png" for i in range(3, 60))]


def draw(path, kind, seed):
    """Red, green or blue, with noise."""
    pixels = np.random.default_rng(seed).integers(0, 60, (24, 24, 3))
    pixels[..., kind] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def read(path):
    return list(csv.DictReader(path.open(encoding="utf-8", newline="")))


@pytest.fixture
def base(tmp_path):
    return make_clustering(tmp_path)


def make_clustering(tmp_path):
    """Two folders of the same three kinds of images, and a clustering of one of them, of an untrained network."""
    for i, name in enumerate(NAMES):
        draw(tmp_path / "images" / name, i % 3, i)
        draw(tmp_path / "new" / f"{i % 3}" / name, i % 3, 100 + i)
    crop = {"random_resized_crop": {"size": 16, "scale": [0.5, 1.0]}}
    views = {
        "augmentation_strategy": "standard",
        "augmentation_kwargs": crop,
        "optimizer": "adam",
        "optimizer_kwargs": {"lr": 1e-3},
    }
    config = {**CONFIG, **views, "num_classes": 3, "num_heads": 1, "width": 16}
    kwargs = {"root": str(tmp_path / "images")}
    (tmp_path / "scan.yml").write_text(yaml.safe_dump({**config, "train_db_kwargs": kwargs}))
    (tmp_path / "env.yml").write_text(yaml.safe_dump({"root_dir": str(tmp_path / "out")}))
    p = load_config(tmp_path / "env.yml", tmp_path / "scan.yml")
    torch.manual_seed(0)
    out = tmp_path / "out"
    save_weights(out / "model.pth.tar", {"model": get_model(p).state_dict(), "head": 0})
    files.write_text(out / "config.yml", yaml.safe_dump(to_plain(p), sort_keys=False), record=True)
    paths = sorted(NAMES)
    rows = [[csv_path(path), i % 3, 0.5] for i, path in enumerate(paths)]
    (out / "clusters.csv").write_bytes(encode_rows([["path", "cluster", "confidence"], *rows]))
    return tmp_path


def label(base, edits, *words):
    return command("label", base / "out", edits, "--device", "cpu", *words)


def by_truth(base, name="given.csv"):
    path = base / name
    rows = [f"{'./' * name.startswith('=')}{name},kind {i % 3}" for i, name in enumerate(NAMES)]
    path.write_text("\n".join(["path,label", *rows]) + "\n")
    return path


def test_two_columns_become_labels_folders_and_names_for_new_images(base, capfd):
    assert label(base, by_truth(base), "--link_to", base / "sorted") == 0
    said = capfd.readouterr().out
    assert "60 of 60 images in 3 classes, 60 by hand" in said and "100.0 %" in said
    rows = read(base / "out" / "labels.csv")
    clusters = read(base / "out" / "clusters.csv")
    assert [(row["path"], row["cluster"]) for row in rows] == [(row["path"], row["cluster"]) for row in clusters]
    truth = {name: f"kind {i % 3}" for i, name in enumerate(NAMES)}
    assert {row["path"].removeprefix("./"): row["label"] for row in rows} == truth
    for name, kind in truth.items():
        assert (base / "sorted" / kind / name).resolve() == (base / "images" / name).resolve()

    out = base / "new.csv"
    model = ["--model", base / "out", base / "new", "--output", out]
    assert command("predict", *model, "--copy_to", base / "new sorted") == 0
    rows = read(out)
    assert list(rows[0]) == ["path", "label", "confidence"] and len(rows) == 60
    assert all(row["label"] == f"kind {row['path'].split('/')[-2]}" for row in rows)
    assert len(list((base / "new sorted" / "kind 1").iterdir())) == 20
    half = float(np.median([float(row["confidence"]) for row in rows]))
    assert command("predict", *model, "--min_confidence", half) == 0
    assert {row["label"] == "" for row in read(out) if float(row["confidence"]) < half - 1e-5} == {True}
    assert {row["label"] == "" for row in read(out) if float(row["confidence"]) > half + 1e-5} == {False}
    assert command("predict", *model, "--clusters") == 0
    assert list(read(out)[0]) == ["path", "cluster", "confidence"]
    assert command("predict", "--model", base / "out", "--export", base / "named.onnx") == 0
    noted = onnxruntime.InferenceSession(base / "named.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(noted["classes"]) == ["kind 0", "kind 1", "kind 2"] and "of `classes`" in noted["outputs"]
    assert command("predict", *model, "--clusters", "--min_confidence", 0.5) == 2
    assert "goes with names" in (said := capfd.readouterr().err) and "leave out --clusters" in said


def test_the_classifier_is_a_model_file_as_all_others(base):
    assert label(base, by_truth(base)) == 0
    found = read_weights(base / "out" / "labels" / "model.pth.tar")
    own = read_weights(base / "out" / "model.pth.tar")
    assert found.state["cluster_head.0.weight"].shape[0] == 3
    backbone = [key for key in own.state if key.startswith("backbone.")]
    assert backbone and all(torch.equal(own.state[key], found.state[key]) for key in backbone)


def test_edits_become_labels(base, capfd):
    clustering = read_clusters(base / "out" / "clusters.csv")
    edits = {
        "format": "scan-edits-1",
        "fingerprint": clustering.fingerprint,
        "names": {"0": "a/b", "1": "a/b", "2": "rest"},
        "merged": {},
        "rejected": [],
        "moved": {"5": -1},
    }
    path = base / "edits.json"
    path.write_text(json.dumps(edits))
    assert label(base, path, "--copy_to", base / "sorted") == 0
    assert "several clusters are called a/b; they are one class" in capfd.readouterr().out
    expected = [{0: "a/b", 1: "a/b", 2: "rest"}[cluster] for cluster in clustering.clusters]
    expected[5] = ""
    rows = read(base / "out" / "labels.csv")
    assert [row["label"] for row in rows] == expected and rows[5]["by_hand"] == "true"
    assert {folder.name for folder in (base / "sorted").iterdir()} == {"a_b", "rest"}

    path.write_text(json.dumps(edits | {"fingerprint": "0"}))
    assert label(base, path) == 1
    assert "another clustering" in capfd.readouterr().err


def test_what_cannot_be_used_is_said_before_anything_is_written(base, capfd):
    given = base / "given.csv"
    for text, said in [
        ("path,label\nnone.png,x\n", "not in clusters.csv"),
        ("path,label\n03.png,\n", "gives no image a label"),
    ]:
        given.write_text(text)
        assert label(base, given) == 1
        assert said in capfd.readouterr().err
    (base / "images" / "04.png").rename(base / "04.png")
    assert label(base, by_truth(base)) == 1
    assert "04.png is gone" in capfd.readouterr().err
    (base / "04.png").rename(base / "images" / "04.png")
    assert label(base, by_truth(base), "--link_to", base / "images" / "sorted") == 2
    assert label(base, by_truth(base), "--link_to", base / "out" / "sorted") == 2
    assert "inside the output folder" in capfd.readouterr().err
    assert label(base, by_truth(base), "--link_to", base / "new") == 1
    assert "is not an empty folder" in capfd.readouterr().err
    broken = (base / "images" / "04.png").read_bytes()
    (base / "images" / "04.png").write_bytes(b"no image")
    assert label(base, by_truth(base), "--link_to", base / "sorted") == 1
    assert "1 of 60 images" in capfd.readouterr().err
    assert not (base / "out" / "labels.csv").exists() and not (base / "sorted").exists()
    (base / "images" / "04.png").write_bytes(broken)
    (base / "out" / "labels.csv").write_text("mine")
    assert label(base, by_truth(base)) == 1
    assert "was not written by this program" in capfd.readouterr().err
    assert (base / "out" / "labels.csv").read_text() == "mine"
    assert not (base / "out" / "labels").exists()


def test_one_class_gives_labels_and_no_classifier(base, capfd):
    given = base / "given.csv"
    assert label(base, by_truth(base)) == 0 and find_model(base / "out", classifier=True).parent.name == "labels"
    (base / "out" / "labels" / "notes.txt").write_text("mine")
    given.write_text("path,label\n03.png,only\n04.png,only\n05.png,\n")
    capfd.readouterr()
    assert label(base, given) == 0
    said = capfd.readouterr().err
    assert "needs two classes" in said and "the one that was there is removed" in said
    assert find_model(base / "out", classifier=True).parent == base / "out"  # no names of before for new images
    assert [path.name for path in (base / "out" / "labels").iterdir()] == ["notes.txt"]
    assert sum(row["label"] == "only" for row in read(base / "out" / "labels.csv")) == 2
    given.write_text("path,label\n03.png,one\n04.png,two\n07.png,two\n")
    assert label(base, given) == 0
    shown = capfd.readouterr()
    assert "classes of a single image, which say little: one" in shown.err and "unknown" in shown.out


def test_exports_go_next_to_the_output_folder_and_are_checked_before_anything_is_written(base, capfd):
    (base / "out-coco").mkdir()
    (base / "out-coco" / "labels.json").write_text("mine")
    for words, code, said in [
        (["--export", "coco"], 1, "was not written by this program"),
        (["--export", "coco", "--export_to", base / "images" / "x"], 2, "inside the folder of images"),
        (["--export_to", base / "x"], 2, "say which one with --export"),
        (["--export", "imagefolder", "--link_to", base / "x"], 2, "leave out --copy_to or --link_to"),
        (["--export", "yolo"], 2, "coco"),
    ]:
        assert label(base, by_truth(base), *words) == code
        assert said in capfd.readouterr().err
    assert not (base / "out" / "labels.csv").exists()
    assert label(base, by_truth(base), "--export", "fiftyone") == 0
    assert len(json.loads((base / "out-fiftyone" / "labels.json").read_text())["labels"]) == 60
    assert "fiftyone.Dataset.from_dir(dataset_dir=" in capfd.readouterr().out
    assert label(base, by_truth(base), "--export", "imagefolder") == 0
    found = ImageFolder(base / "out-imagefolder")
    truth = {name: f"kind {i % 3}" for i, name in enumerate(NAMES)}
    assert {Path(path).name: found.classes[target] for path, target in found.samples} == truth


def test_images_are_sorted_last_so_that_the_same_command_continues(base, capfd, monkeypatch):
    def stop(*_):
        raise UserError("stopped; the same command continues")

    words = [by_truth(base), "--link_to", base / "sorted"]
    with monkeypatch.context() as stopped:
        stopped.setattr("label.train_classifier", stop)
        assert label(base, *words) == 1
    assert not (base / "sorted").exists()
    assert label(base, *words) == 0 and len(list((base / "sorted").glob("*/*"))) == 60


def test_finetuning_goes_on_and_is_compared_on_images_held_out_of_both(base, capfd):
    given = by_truth(base)
    assert label(base, given, "--finetune") == 0
    said = capfd.readouterr().out
    assert "on 12 labeled images that neither had seen" in said  # of 20 a class, a fifth
    told = json.loads((base / "out" / "labels" / "run.json").read_text())["result"]
    (run,) = (base / "out" / "labels" / "finetune" / "pretext").iterdir()
    config = yaml.safe_load((run / "config.yml").read_text())
    used = {row["path"].removeprefix("./"): row["label"] for row in read(Path(config["train_db_kwargs"]["labels"]))}
    held_out = sorted(set(NAMES) - set(used))
    assert [sum(NAMES.index(name) % 3 == kind for name in held_out) for kind in range(3)] == [4, 4, 4]
    assert told["held_out"]["images"] == 12 and told["finetuned"] == (
        told["held_out"]["finetuned"] > told["held_out"]["logistic_regression"]
    )
    # The accuracy that is told is that of the network in the run, on images that its table does not have.
    model = read_weights(run / "model.pth.tar").state
    features = np.load(run / "features-train.npy")[[sorted(NAMES).index(name) for name in held_out]]
    logits = features @ model["classifier.weight"].numpy().T + model["classifier.bias"].numpy()
    right = [f"kind {NAMES.index(n) % 3}" == f"kind {k}" for n, k in zip(held_out, logits.argmax(1), strict=True)]
    assert told["held_out"]["finetuned"] == pytest.approx(np.mean(right))
    kept = run if told["finetuned"] else base / "out"
    backbone = read_weights(kept / "model.pth.tar").state
    found = read_weights(base / "out" / "labels" / "model.pth.tar").state
    assert all(torch.equal(value, found[key]) for key, value in backbone.items() if key.startswith("backbone."))

    before = (run / "model.pth.tar").stat().st_mtime_ns
    assert label(base, given, "--finetune") == 0 and (run / "model.pth.tar").stat().st_mtime_ns == before
    assert label(base, given) == 0 and "finetune, of an earlier --finetune, stays" in capfd.readouterr().out
    given.write_text("path,label\n03.png,only\n")
    assert label(base, given) == 0 and not (base / "out" / "labels").exists()
    given.write_text("path,label\n03.png,one\n04.png,two\n07.png,two\n")
    before = (base / "out" / "labels.csv").read_bytes()
    assert label(base, given, "--finetune") == 1
    assert "needs a class of five images" in capfd.readouterr().err
    assert (base / "out" / "labels.csv").read_bytes() == before
