"""The stages end to end as their commands run them, on few images: what they compute, take over, and refuse."""

import json
import shutil
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from models.models import ClusteringModel, ContrastiveModel
from models.resnet import resnet50
from models.resnet_cifar import resnet18
from system.errors import UserError
from tests import published
from tests import stage as stages
from tests.stage import FOLDERS, TINY, command
from utils import pretext
from utils.config import REPOSITORY

pytestmark = pytest.mark.usefixtures("signals", "empty_pictures")
FEW = stages.few_digits(96, 48)
# What the published recipes are changed to, so that they run in a second.
SMALL = ["epochs=1", "batch_size=20", "width=4", "num_workers=0"]


def stage(script, root, *more):
    return stages.stage(script, root, *FEW, *more)


def run_all(root, *more):
    for script in FOLDERS:
        assert stage(script, root, *more) == 0
    return root / "digits"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_all(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def root(finished, tmp_path):
    """A results folder with the pretext task's files, and the scan stage's."""
    for name in ("pretext", "scan"):
        shutil.copytree(finished / name, tmp_path / "digits" / name)
    return tmp_path


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(one, other):
    return one.keys() == other.keys() and all(value.equal(other[key]) for key, value in one.items())


def validation_losses(model, images, neighbors):
    """The formula as loops: one loss a head."""
    losses = []
    for logits in published.outputs(model, images):
        p = logits.softmax(1).double().numpy()
        pairs = [-np.log(min(1, p[i] @ p[k])) for i in range(len(p)) for k in neighbors[i, :6]]
        mean = p.mean(0)
        losses.append(np.mean(pairs) + (mean * np.log(mean)).sum())
    return losses


# What a run leaves


def test_one_seed_gives_the_same_bits_and_another_does_not(finished, tmp_path):
    again = run_all(tmp_path)
    for path in sorted(finished.glob("*/model*.pth.tar")):
        one, other = published.load(path), published.load(again / path.relative_to(finished))
        assert one.get("head") == other.get("head")
        assert same(one.get("model", one), other.get("model", other))
    for path in finished.glob("pretext/*.npy"):
        assert (again / path.relative_to(finished)).read_bytes() == path.read_bytes()
    for name in ("pretext", "scan", "selflabel"):
        assert metrics(finished / name) == metrics(again / name)
    assert stage("simclr", tmp_path, "seed=1", "run_name=other") == 0
    other = published.load(again / "pretext/other/model.pth.tar")
    assert not same(published.load(finished / "pretext/model.pth.tar"), other)


def test_files_have_the_published_names_and_forms(finished):
    pretext = torch.load(finished / "pretext/model.pth.tar")
    parts = {key.split(".")[0] for key in pretext}
    assert parts == {"backbone", "contrastive_head"}
    heads = [f"contrastive_head.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")]
    assert [key for key in pretext if "head" in key] == heads
    scanned = torch.load(finished / "scan/model.pth.tar")
    assert sorted(scanned) == ["head", "model"]
    assert type(scanned["head"]) is int
    assert [key for key in scanned["model"] if "bias" in key and "head" in key] == [
        f"cluster_head.{i}.bias" for i in range(5)
    ]
    refined = torch.load(finished / "selflabel/model.pth.tar")
    assert [key for key in refined if "head" in key] == ["cluster_head.0.weight", "cluster_head.0.bias"]
    for split, num, k in (("train", 96, 8), ("val", 48, 5)):
        neighbors = np.load(finished / f"pretext/topk-{split}-neighbors.npy")
        assert (neighbors.dtype, neighbors.shape) == (np.int64, (num, k + 1))
        assert neighbors[:, 0].tolist() == list(range(num))
    for name in ("pretext", "scan", "selflabel"):
        assert (finished / name / "checkpoint.pth.tar").exists()


def test_a_finished_run_is_not_run_again_and_another_config_is_refused(finished, capsys):
    before = (finished / "scan/model.pth.tar").read_bytes()
    assert stage("scan", finished.parent) == 0
    assert "finished" in capsys.readouterr().out
    assert stage("scan", finished.parent, "epochs=3") == 2
    assert "epochs" in capsys.readouterr().err
    assert (finished / "scan/model.pth.tar").read_bytes() == before


def test_a_collapse_is_told_while_it_happens(root, capsys, monkeypatch):
    """Without the entropy term everything may fall into one cluster; here it is made to."""
    real = torch.bincount
    monkeypatch.setattr(torch, "bincount", lambda x, **kwargs: real(torch.zeros_like(x), **kwargs))
    assert stage("scan", root, "run_name=x", "epochs=1") == 0
    assert capsys.readouterr().err.count("training has collapsed") == 1


def test_losses_below_zero_are_explained_once(root, capsys):
    assert stage("scan", root, "run_name=x") == 0
    assert capsys.readouterr().out.count("negative") == 1


# The published recipes, on CIFAR-10 in small


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Published configs and data; the pretext task and the scan stage are done."""
    root = tmp_path_factory.mktemp("site")
    content = published.write_cifar10(root / "data")
    env = ["--config_env", published.write_env(root)]
    simclr = published.write_config(root, published.SIMCLR)
    scan = published.write_config(root, published.SCAN)
    assert command("simclr", "epochs=1", *env, "--config_exp", simclr, *SMALL[1:]) == 0
    assert command("scan", *env, *SMALL, "--config_exp", scan, "num_heads=3") == 0
    return root, content


def test_neighbors_are_those_of_the_heads_outputs(site):
    root, content = site
    folder = root / "results/cifar-10/pretext"
    model = ContrastiveModel(resnet18(width=4))
    model.load_state_dict(published.load(folder / "model.pth.tar"))
    for split, k in (("train", 20), ("val", 5)):
        features = published.outputs(model, content[split][0]).double().numpy()
        published.assert_nearest(np.load(folder / f"topk-{split}-neighbors.npy"), features, k)


def test_the_head_and_epoch_of_the_lowest_validation_loss_are_kept(site):
    root, content = site
    folder = root / "results/cifar-10"
    saved = published.load(folder / "scan/model.pth.tar")
    model = ClusteringModel(resnet18(width=4), 10, 3)
    model.load_state_dict(saved["model"])
    neighbors = np.load(folder / "pretext/topk-val-neighbors.npy")
    losses = validation_losses(model, content["val"][0], neighbors)
    (line,) = metrics(folder / "scan")
    assert saved["head"] == line["head"] == int(np.argmin(losses))
    assert line["val_loss"] == pytest.approx(min(losses), abs=0.01)  # monitored in the training precision


def test_steps_are_as_many_forwards_as_published(site):
    """SimCLR shows both views at once, three steps of 20 of 60 images; SCAN forwards anchors, then neighbors."""
    root, _ = site
    folder = root / "results/cifar-10"
    counter = "backbone.bn1.num_batches_tracked"
    assert published.load(folder / "pretext/model.pth.tar")[counter] == 3
    assert published.load(folder / "scan/model.pth.tar")["model"][counter] == 3 + 2 * 3


def test_the_weighted_k_nn_vote(site, tmp_path):
    root, content = site
    words = ["--config_env", root / "env.yml", "--config_exp", published.write_config(tmp_path, published.SIMCLR)]
    out = tmp_path / "scores.json"
    assert command("eval", *words, *SMALL, "--knn", "--json", out, "--out", tmp_path) == 0
    model = ContrastiveModel(resnet18(width=4))
    model.load_state_dict(published.load(root / "results/cifar-10/pretext/model.pth.tar"))
    bank, queries = (published.outputs(model, content[split][0]).double().numpy() for split in ("train", "val"))
    votes = np.zeros((30, 10))
    for query, row in enumerate(np.exp(queries @ bank.T / 0.1)):
        for vote, label in zip(row, content["train"][1], strict=True):  # fewer than 100: all of them vote
            votes[query, label] += vote
    hits = votes.argmax(1) == content["val"][1]
    assert json.loads(out.read_text())["knn_acc"] == pytest.approx(hits.mean(), abs=1e-6)


def run_site(script, site, tmp_path, *more, content=published.SELFLABEL, keep=("pretext", "scan")):
    """Run a stage on a copy of the site's results; returns its exit code and the results."""
    root, _ = site
    for name in keep:
        shutil.copytree(root / "results/cifar-10" / name, tmp_path / "cifar-10" / name, dirs_exist_ok=True)
    config = published.write_config(tmp_path, content)
    env = ["--config_env", root / "env.yml", f"root_dir={tmp_path}"]
    return command(script, *env, "--config_exp", config, *SMALL, *more), tmp_path / "cifar-10"


def test_self_labeling_starts_from_the_best_head_alone(site, tmp_path):
    code, folder = run_site("selflabel", site, tmp_path, "confidence_threshold=0", "optimizer_kwargs.lr=0")
    assert code == 0
    scanned, refined = (published.load(folder / name / "model.pth.tar") for name in ("scan", "selflabel"))
    best = f"cluster_head.{scanned['head']}."
    for kind in ("weight", "bias"):
        assert refined["cluster_head.0." + kind].equal(scanned["model"][best + kind])
    assert refined["backbone.conv1.weight"].equal(scanned["model"]["backbone.conv1.weight"])
    assert not any(key.startswith("cluster_head.1") for key in refined)
    # Both views went through in train mode: three steps of two forwards.
    counts = [state["backbone.bn1.num_batches_tracked"] for state in (scanned["model"], refined)]
    assert counts[1] - counts[0] == 6


def test_the_moving_average_is_what_the_network_holds(site, tmp_path):
    words = ["confidence_threshold=0", "use_ema=true", "optimizer_kwargs.lr=0.01"]
    code, folder = run_site("selflabel", site, tmp_path, *words, "ema_alpha=1.0", "run_name=still")
    assert code == 0
    scanned = published.load(folder / "scan/model.pth.tar")["model"]
    still = published.load(folder / "selflabel/still/model.pth.tar")
    names = {name for name, _ in ClusteringModel(resnet18(width=4), 10).named_parameters()}
    own = {key: value for key, value in still.items() if key in names and key.startswith("backbone")}
    assert all(value.equal(scanned[key]) for key, value in own.items())  # s = s, whatever the steps were
    mean = "backbone.layer1.0.bn1.running_mean"
    assert not still[mean].equal(scanned[mean])  # BatchNorm's statistics are the network's own
    code, folder = run_site("selflabel", site, tmp_path, *words, "ema_alpha=0.0", "run_name=moved")
    code, folder = run_site("selflabel", site, tmp_path, *words[:1], words[2], "run_name=plain")
    assert code == 0
    moved, plain = (published.load(folder / f"selflabel/{name}/model.pth.tar") for name in ("moved", "plain"))
    assert same(moved, plain)  # s = w


def test_a_running_average_is_the_model_and_leaves_training_alone(site, tmp_path):
    """A decay of 0 is the network itself."""
    words = ["confidence_threshold=0", "optimizer_kwargs.lr=0.01"]
    folders = {}
    for name, more in {"plain": [], "none": ["average_decay=0"], "long": ["average_decay=0.9"]}.items():
        code, folder = run_site("selflabel", site, tmp_path, *words, *more, f"run_name={name}")
        assert code == 0
        folders[name] = folder / "selflabel" / name
    losses = {name: [line["loss"] for line in metrics(folder)] for name, folder in folders.items()}
    assert losses["plain"] == losses["none"] == losses["long"]
    plain, none, long = (published.load(folder / "model.pth.tar") for folder in folders.values())
    assert same(plain, none)
    trained = torch.load(folders["long"] / "checkpoint.pth.tar")["model"]
    assert same(plain, trained)
    assert not same(plain, long)
    assert metrics(folders["plain"])[-1]["val_loss"] == metrics(folders["none"])[-1]["val_loss"]
    assert metrics(folders["plain"])[-1]["val_loss"] != metrics(folders["long"])[-1]["val_loss"]


def test_head_only_leaves_the_backbone_as_it_was(site, tmp_path):
    words = ["update_cluster_head_only=true", "num_heads=3", "optimizer_kwargs.lr=0.5", "optimizer=sgd"]
    code, folder = run_site("scan", site, tmp_path, *words, content=published.SCAN, keep=["pretext"])
    assert code == 0
    pretext = published.load(folder / "pretext/model.pth.tar")
    scanned = published.load(folder / "scan/model.pth.tar")["model"]
    backbone = {key: value for key, value in pretext.items() if key.startswith("backbone.")}
    assert all(value.equal(scanned[key]) for key, value in backbone.items())  # BatchNorm's statistics too


# What users of the published code lay down


def test_a_released_pretext_model_is_mined_and_clustered(site, tmp_path):
    root, content = site
    torch.manual_seed(0)
    model = ContrastiveModel(resnet18(width=4))
    folder = tmp_path / "results/cifar-10/pretext"
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / "checkpoint.pth.tar")
    words = ["--config_env", root / "env.yml", f"root_dir={tmp_path / 'results'}", *SMALL]
    simclr = ["--config_exp", published.write_config(tmp_path, published.SIMCLR)]
    scan = ["--config_exp", published.write_config(tmp_path, published.SCAN)]
    assert command("simclr", "--mine_only", *words, *simclr, "num_mined_train=30") == 0
    assert same(torch.load(folder / "model.pth.tar"), model.state_dict())
    features = published.outputs(model, content["train"][0]).double().numpy()
    published.assert_nearest(np.load(folder / "topk-train-neighbors.npy"), features, 30)
    assert command("scan", *words, *scan, "num_neighbors=30") == 0

    # A resumable checkpoint in its place, with other weights, keys as data-parallel training names them.
    with torch.no_grad():
        model.backbone.conv1.weight.add_(1)
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"optimizer": {}, "model": state, "epoch": 500}, folder / "checkpoint.pth.tar")
    assert command("simclr", *words, *simclr, "--mine_only") == 0
    assert same(torch.load(folder / "model.pth.tar"), model.state_dict())
    assert np.load(folder / "topk-train-neighbors.npy").shape == (60, 21)


def test_mining_does_not_replace_the_model_of_a_finished_run(tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise UserError("the disk is full")

    tiny = ["epochs=1", "width=2", "batch_size=32", *FEW]
    words = ["--config_exp", "configs/pretext/simclr_digits.yml", f"root_dir={tmp_path}", *tiny]
    assert command("simclr", *words) == 0
    folder = tmp_path / "digits/pretext"
    before = (folder / "model.pth.tar").read_bytes()
    other = {name: value + 1 for name, value in torch.load(folder / "model.pth.tar").items()}
    torch.save(other, tmp_path / "other.pth.tar")
    capsys.readouterr()
    assert command("simclr", *words, "--mine_only", "--model", tmp_path / "other.pth.tar") == 1
    assert "the model of a finished run" in capsys.readouterr().err
    assert (folder / "model.pth.tar").read_bytes() == before
    assert command("simclr", *words, "--mine_only", "num_mined_train=30") == 0  # its own weights
    assert np.load(folder / "topk-train-neighbors.npy").shape[1] == 31
    more = ["--model", tmp_path / "other.pth.tar", "overwrite=true"]
    with monkeypatch.context() as broken:
        broken.setattr(pretext, "mine", fail)
        assert command("simclr", *words, "--mine_only", *more) == 1
    left = {path.name for path in folder.iterdir()}
    assert not left & {"run.json", "features-train.npy", "features-val.npy", "topk-train-neighbors.npy"}
    assert command("simclr", *words, "--mine_only", *more) == 0
    assert not (folder / "run.json").exists()
    assert same(torch.load(folder / "model.pth.tar"), other)


def test_training_does_not_take_a_released_file_for_its_own_checkpoint(site, tmp_path, capsys):
    root, _ = site
    folder = tmp_path / "cifar-10/pretext"
    folder.mkdir(parents=True)
    torch.save(ContrastiveModel(resnet18(width=4)).state_dict(), folder / "checkpoint.pth.tar")
    before = (folder / "checkpoint.pth.tar").read_bytes()
    words = ["--config_env", root / "env.yml", f"root_dir={tmp_path}", *SMALL]
    assert command("simclr", *words, "--config_exp", published.write_config(tmp_path, published.SIMCLR)) == 1
    assert "checkpoint.pth.tar" in capsys.readouterr().err
    assert (folder / "checkpoint.pth.tar").read_bytes() == before


def test_published_results_go_on_here(site, tmp_path, capsys):
    _, content = site
    torch.manual_seed(1)
    pretext, scanned = ContrastiveModel(resnet18(width=4)), ClusteringModel(resnet18(width=4), 10, 2)
    folder = tmp_path / "cifar-10"
    (folder / "pretext").mkdir(parents=True)
    torch.save(pretext.state_dict(), folder / "pretext/model.pth.tar")
    for split, k in (("train", 20), ("val", 5)):
        neighbors = published.nearest(published.outputs(pretext, content[split][0]).numpy(), k)
        neighbors[3, :2] = neighbors[3, 1::-1]  # a duplicate stands before the image itself, as faiss leaves it
        np.save(folder / f"pretext/topk-{split}-neighbors.npy", neighbors)
    code, _ = run_site("scan", site, tmp_path, content=published.SCAN, keep=[])
    assert code == 0
    assert "taken as it is" in capsys.readouterr().out
    torch.save({"model": scanned.state_dict(), "head": np.int64(1)}, folder / "scan/model.pth.tar")  # over ours
    code, _ = run_site("selflabel", site, tmp_path, "confidence_threshold=0", "optimizer_kwargs.lr=0", keep=[])
    assert code == 0
    refined = published.load(folder / "selflabel/model.pth.tar")
    assert refined["cluster_head.0.weight"].equal(scanned.cluster_head[1].weight)


def test_a_released_scan_model_alone_is_enough_for_self_labeling(site, tmp_path, capsys):
    code, folder = run_site("selflabel", site, tmp_path, "confidence_threshold=0", keep=["scan"])
    assert code == 0
    assert "topk-val-neighbors.npy is missing" in capsys.readouterr().out
    assert not list(folder.glob("pretext/*.npy"))
    assert "val_loss" in metrics(folder / "selflabel")[0]


def test_moco_mines_its_backbone(tmp_path, site):
    root, content = site
    torch.manual_seed(0)
    model = resnet50()["backbone"]
    state = {f"module.encoder_q.{key}": value for key, value in model.state_dict().items()}
    for layer, rows in (("0", 2048), ("2", 128)):
        state[f"module.encoder_q.fc.{layer}.weight"] = torch.zeros(rows, 2048)
        state[f"module.encoder_q.fc.{layer}.bias"] = torch.zeros(rows)
    state["module.queue"] = torch.zeros(128, 4)
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": state}, tmp_path / "moco.pth.tar")
    config = published.write_config(tmp_path, published.MOCO, backbone="resnet50", stem="imagenet")
    words = ["--config_env", root / "env.yml", f"root_dir={tmp_path}", "--config_exp", config, "num_workers=0"]
    assert command("moco", *words, "--model", tmp_path / "moco.pth.tar") == 0
    folder = tmp_path / "cifar-10/pretext"
    saved = torch.load(folder / "model.pth.tar")
    assert saved["contrastive_head.2.weight"].equal(torch.zeros(128, 2048))
    assert saved["backbone.conv1.weight"].equal(model.conv1.weight)
    features = published.outputs(model, content["train"][0]).double().numpy()
    published.assert_nearest(np.load(folder / "topk-train-neighbors.npy"), features, 50)
    assert np.load(folder / "topk-val-neighbors.npy").shape == (30, 6)


def test_stl10_learns_from_all_and_mines_the_labeled_split(tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "data/stl10_binary"
    folder.mkdir(parents=True)
    for part, num in {"train": 22, "unlabeled": 10, "test": 8}.items():
        random.integers(0, 256, num * 3 * 96 * 96, dtype=np.uint8).tofile(folder / f"{part}_X.bin")
        (np.arange(num, dtype=np.uint8) % 10 + 1).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("airplane bird car cat deer dog horse monkey ship truck")
    words = ["--config_env", published.write_env(tmp_path), "epochs=1", "batch_size=8", "width=2", "num_workers=0"]
    for script, name in (("simclr", "pretext/simclr"), ("scan", "scan/scan")):
        assert command(script, *words, "--config_exp", REPOSITORY / f"configs/{name}_stl10.yml") == 0
    results = tmp_path / "results/stl-10"
    assert np.load(results / "pretext/topk-train-neighbors.npy").shape == (22, 21)
    assert np.load(results / "pretext/topk-val-neighbors.npy").shape == (8, 6)
    counter = "backbone.bn1.num_batches_tracked"
    assert published.load(results / "pretext/model.pth.tar")[counter] == 4  # 32 images in batches of 8
    assert published.load(results / "scan/model.pth.tar")["model"][counter] == 4 + 2 * 2


# No labels


def test_a_folder_without_labels_goes_through_every_stage(tmp_path, capsys):
    random = np.random.default_rng(0)
    images = tmp_path / "my images"
    (images / "more").mkdir(parents=True)
    for i in range(40):
        name = f"{'more/' if i % 2 else ''}{i}.png"
        Image.fromarray(random.integers(0, 256, (20, 18 + i % 5, 3), dtype=np.uint8)).save(images / name)
    (images / "notes.txt").write_text("no image")
    words = ["train_db_name=folder", "val_db_name=null", f"train_db_kwargs.root={images}", "num_mined_val=30"]
    for script in FOLDERS:
        assert stages.stage(script, tmp_path / "results", *words) == 0
    assert stages.stage("simclr", tmp_path, *words) == 2  # its results would be where the images are
    assert "pictures would count as images; give another root_dir" in capsys.readouterr().err
    folder = tmp_path / "results" / "my images"
    for split, columns in (("train", 9), ("val", 31)):  # the same images, each with as many as are asked for
        assert np.load(folder / "pretext" / f"topk-{split}-neighbors.npy").shape == (40, columns)
    scan_config = REPOSITORY / "configs/scan/scan_digits.yml"
    capsys.readouterr()
    given = ["--config_exp", scan_config, f"root_dir={tmp_path}/results", *TINY, *words, "--json", tmp_path / "x.json"]
    assert command("eval", *given) == 0
    assert "no labels" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.json").read_text()) == {}
    assert not any("acc" in key for line in metrics(folder / "selflabel") for key in line)


# What cannot be


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_folder_without_its_directory_is_one_sentence(split, tmp_path, capsys):
    config = REPOSITORY / "configs/pretext/simclr_cifar10_cpu.yml"
    other = {"train": "val", "val": "train"}[split]
    words = ["--config_exp", config, f"root_dir={tmp_path}/results", f"{other}_db_kwargs.root={tmp_path}/images"]
    assert command("simclr", *words) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message == f"error: {split}_db_name: folder needs its directory: add {split}_db_kwargs.root=PATH"


CIFAR10 = ["train_db_name=cifar-10", "train_db_kwargs={}"]
REFUSALS = {
    "more neighbors than mined": ("scan", ["num_neighbors=9"], 1, "num_mined_train=9"),
    "a batch larger than the data": ("scan", ["batch_size=97"], 1, "96 training images"),
    "a device that is not there": ("scan", ["device=cuda:77"], 1, "device=cuda:77 is not there"),
    "a device that does not exist": ("scan", ["device=gpu"], 2, "device=gpu"),
    "another backbone": ("scan", ["width=8"], 1, "does not fit the backbone"),
    "other clusters": ("selflabel", ["num_classes=7"], 1, "num_classes"),
    "mining more than there is": ("simclr", ["num_mined_train=96"], 1, "at most 95"),
    "a batch larger than the data, pretext": ("simclr", ["batch_size=97"], 1, "96 training images"),
    "a missing data set": (
        "scan",
        ["train_db_name=cifar-10", "train_db_kwargs={}", "db_alias=digits"],
        1,
        "cifar-10 is not in",
    ),
    "a pretext run that does not exist": ("scan", ["pretext_run=none"], 1, "does not exist"),
    "a scan run that does not exist": ("selflabel", ["scan_run=none"], 1, "does not exist"),
    "an unknown key": ("scan", ["num_neighbours=3"], 2, "did you mean 'num_neighbors'"),
    "a wrong type": ("scan", ["epochs=many"], 2, "epochs is many"),
    "a config of another stage": ("scan", ["--config_exp", "configs/pretext/simclr_digits.yml"], 2, "setup: simclr"),
    "a missing env": ("scan", ["--config_env", "nowhere.yml"], 2, "nowhere.yml"),
    "a missing config": ("scan", ["--config_exp", "nowhere.yml"], 2, "nowhere.yml"),
    "no override": ("scan", ["epochs"], 2, "key=value"),
    "an unknown option": ("scan", ["--epochs", "3"], 2, "--epochs"),
    "a stage that trains without its keys": ("scan", ["optimizer=null"], 2, "optimizer"),
    "a model that is not there": ("simclr", ["--mine_only", "--model", "nowhere.pth"], 1, "nowhere.pth"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_is_one_sentence_and_an_exit_code(root, capsys, monkeypatch, case):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    script, words, code, sentence = REFUSALS[case]
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert stage(script, root, f"data_root={root}", "run_name=x", *words) == code
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert all(path.read_bytes() == content for path, content in before.items())


def test_commands_work_from_another_directory(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = REPOSITORY / "configs/pretext/simclr_digits.yml"
    words = ["epochs=1", "--config_exp", config, "batch_size=48", "width=2", "knn_every=5", *FEW]
    assert command("simclr", *words) == 0
    assert (tmp_path / "results/digits/pretext/model.pth.tar").exists()
