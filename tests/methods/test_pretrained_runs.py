"""Features of a pretrained network as whole runs, tiny: what later commands make of them."""

import csv
import json
import os
import signal
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from easydict import EasyDict
from PIL import Image
from safetensors.torch import save_file

from models.engine import Choice, Engine
from models.resnet_cifar import resnet8
from system.files import write_text
from system.runtime import Runtime
from tests.stage import command
from utils import engines
from utils.clusters import load_clustering
from utils.config import load_config

NUM_IMAGES, SIDE, K = 90, 32, 3
NETWORK = "test_efficientnet.r160_in1k"
CPU = torch.device("cpu")


def write_project(folder, num_images=NUM_IMAGES):
    """Images of three kinds, a network's random weights, and the configs of both stages, whose paths are returned."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for number in range(num_images):
        low = random.integers(0, 120, (4, 4, 3)) + np.eye(3)[number % 3] * 130
        image = Image.fromarray(low.astype(np.uint8)).resize((28, 24), Image.Resampling.BICUBIC)
        image.save(folder / "images" / f"{number:03d}.png")
    torch.manual_seed(0)
    save_file(timm.create_model(NETWORK, pretrained=False).state_dict(), folder / "network.safetensors")
    common = {
        "train_db_name": "folder",
        "train_db_kwargs": {"root": str(folder / "images")},
        "db_alias": "runs",
        "backbone": f"timm/{NETWORK}",
        "weights": str(folder / "network.safetensors"),
        "num_classes": K,
        "device": "cpu",
        "transformation_kwargs": {
            "crop_size": SIDE,
            "normalize": {"mean": [0.5] * 3, "std": [0.25] * 3},
            "interpolation": "bicubic",
        },
    }
    (folder / "env.yml").write_text(yaml.safe_dump({"root_dir": str(folder)}))
    configs = {}
    for setup in ("pretrained", "kmeans"):
        configs[setup] = folder / f"{setup}.yml"
        own = {"method_kwargs": {"features": "pretext"}} if setup == "kmeans" else {}
        configs[setup].write_text(yaml.safe_dump({"setup": setup, **common, **own}))
    return configs


def words_of(config, *more):
    return ["--config_env", config.parent / "env.yml", "--config_exp", config, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Both stages, done."""
    folder = tmp_path_factory.mktemp("pretrained")
    for setup, config in write_project(folder).items():
        assert command(f"methods.{setup}", *words_of(config)) == 0
    return folder


@pytest.mark.slow
def test_predict_gives_the_images_of_a_run_its_features_and_its_clusters(finished, capsys):
    p = load_config(finished / "env.yml", finished / "kmeans.yml")
    features = np.load(Path(p.pretext_dir) / "features-train.npy")
    folder = Path(p.kmeans_dir)
    words = ["--model", folder, finished / "images", "--device", "cpu", "--top_k", K]
    words += ["--output", finished / "t.csv", "--embeddings", finished / "e.npy"]
    assert command("predict", *words) == 0
    assert np.array_equal(np.load(finished / "e.npy"), features)
    model, head = load_clustering(p, p.kmeans_model)
    with torch.no_grad():
        expected = torch.softmax(model.cluster_head[head](torch.from_numpy(features)), dim=1)
    rows = list(csv.DictReader((finished / "t.csv").open()))
    assert [int(row["cluster"]) for row in rows] == expected.argmax(1).tolist()
    assert [float(row["confidence"]) for row in rows] == pytest.approx(expected.max(1).values.tolist(), abs=2e-6)


@pytest.mark.slow
def test_both_runs_record_one_choice_which_eval_keeps(finished, capsys):
    records = [json.loads((finished / "runs" / name / "run.json").read_text()) for name in ("pretext", "kmeans")]
    assert records[0]["engine"] == records[1]["engine"]
    assert Choice(**records[0]["engine"]).device == "cpu"
    assert command("eval", *words_of(finished / "kmeans.yml", "--report", "--out", finished / "out")) == 0
    assert command("eval", *words_of(finished / "pretrained.yml")) == 0


def test_a_recorded_choice_is_kept_with_the_threads_of_this_process(tmp_path, capsys):
    def record(**engine):
        write_text(tmp_path / "run.json", json.dumps({"status": "finished", "seconds": 1.0, "engine": engine}))
        return engines.recorded_choices(tmp_path, CPU)

    assert engines.recorded_choices(tmp_path, CPU) == []
    kept = Choice("torch", "bf16", 7, 3)
    assert record(**asdict(kept)) == [Choice("torch", "bf16", torch.get_num_threads(), 3)]
    network = timm.create_model(NETWORK, pretrained=False, num_classes=0)
    p = EasyDict(backbone=f"timm/{NETWORK}", transformation_kwargs={"crop_size": SIDE})
    assert engines.prepare(p, network, tmp_path, CPU).choice.precision == "bf16"
    own = resnet8()["backbone"]
    assert engines.prepare({"backbone": "resnet8"}, own, tmp_path, CPU) is own
    assert record(**asdict(Choice("torch", "bf16", 1, 256, "cuda"))) == []  # it is chosen anew on another device
    assert not capsys.readouterr().err
    assert record(library="magic", precision="bf16", threads=1, pass_images=1) == []
    assert "does not say how features are computed" in capsys.readouterr().err
    assert isinstance(engines.prepare(p, network, tmp_path, CPU), Engine)


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [True, False])
def test_an_interrupted_call_goes_on_with_the_same_bits(tmp_path, capsys, monkeypatch, in_memory):
    config = write_project(tmp_path)["pretrained"]
    words = words_of(config, "eval_batch_size=4")
    folder = tmp_path / "runs" / "pretext"
    if not in_memory:
        monkeypatch.setattr(Runtime, "holds", lambda self, num_bytes: False)
    assert command("methods.pretrained", *words, "run_name=whole") == 0
    whole = {path.name for path in (folder / "whole").iterdir()}
    forward, seen, stops = Engine.forward, [], [40]

    def count(self, images):
        seen.append(len(images))
        if sum(seen) in stops:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, images)

    monkeypatch.setattr(Engine, "forward", count)
    assert command("methods.pretrained", *words) == 128 + signal.SIGTERM
    assert sum(seen) < 50 and not (folder / "features-train.npy").exists()
    assert len(list(folder.glob("*.partial"))) == 1  # 8 batches of 4
    capsys.readouterr()
    seen.clear()
    stops.clear()
    assert command("methods.pretrained", *words) == 0
    assert "of 32 images were computed before, 58 are left" in capsys.readouterr().out
    assert sum(seen) == NUM_IMAGES - 32
    for name in ("features-train.npy", "topk-train-neighbors.npy", "topk-val-neighbors.npy"):
        assert (folder / name).read_bytes() == (folder / "whole" / name).read_bytes()
    assert {path.name for path in folder.iterdir()} - {"whole"} == whole


@pytest.mark.slow
def test_parts_of_other_weights_and_damaged_ones_are_computed_again(tmp_path, capsys, monkeypatch):
    config = write_project(tmp_path)["pretrained"]
    folder = tmp_path / "runs" / "pretext"
    words = words_of(config, "eval_batch_size=4")
    forward, limit = Engine.forward, [80]

    def stop(self, images):
        limit[0] -= len(images)
        if limit[0] < 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, images)

    monkeypatch.setattr(Engine, "forward", stop)
    assert command("methods.pretrained", *words) == 128 + signal.SIGTERM
    parts = sorted(folder.glob("*.partial"))
    assert [path.name for path in parts] == [f"features-train.npy.share{first}.partial" for first in (0, 32)]
    parts[1].write_bytes(parts[1].read_bytes()[:-1] + b"x")
    capsys.readouterr()
    limit[0] = 4
    assert command("methods.pretrained", *words) == 128 + signal.SIGTERM
    shown = capsys.readouterr()
    assert "of 32 images were computed before" in shown.out and "it is computed again" in shown.err
    torch.manual_seed(1)
    save_file(timm.create_model(NETWORK, pretrained=False).state_dict(), tmp_path / "network.safetensors")
    limit[0] = 1000
    assert command("methods.pretrained", *words) == 0
    assert "computed before" not in capsys.readouterr().out
    assert not list(folder.glob("*.partial"))


@pytest.mark.slow
def test_two_networks_side_by_side_are_mined_alike_by_every_command(tmp_path):
    config = write_project(tmp_path)["pretrained"]
    for number, path in enumerate(sorted((tmp_path / "images").iterdir())):
        kind = tmp_path / "images" / f"kind{number % 3}"
        kind.mkdir(exist_ok=True)
        path.rename(kind / path.name)
    words = words_of(config, "backbone=efficientnet_lite0+efficientnet_lite2", "weights=null")
    assert command("methods.pretrained", *words) == 0
    folder = tmp_path / "runs" / "pretext"
    purity = json.loads((folder / "run.json").read_text())["result"]["purity_val"]
    assert command("eval", *words, "--json", tmp_path / "scores.json") == 0
    assert json.loads((tmp_path / "scores.json").read_text())["purity"] == pytest.approx(purity, abs=1e-6)
    mined = np.load(folder / "topk-train-neighbors.npy")
    assert command("methods.pretrained", *words, "--mine_only") == 0
    assert np.array_equal(np.load(folder / "topk-train-neighbors.npy"), mined)
