"""eval.py as a command: every form of checkpoint, the head that counts, what it writes, and what it does not read."""

import json
import signal
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score

from models.models import ClassifierModel, ClusteringModel, ContrastiveModel
from models.resnet_cifar import resnet8, resnet18
from system.files import write_text
from tests import published
from tests.stage import command
from utils import baselines
from utils.config import REPOSITORY

pytestmark = pytest.mark.usefixtures("empty_pictures")
SAVE_FIGURE = Figure.savefig  # what writes a picture where a test looks at it
NUM_VAL = 120
KEYS = {"acc", "nmi", "ari", "ami", "top5", "matching", "num_samples"}


@pytest.fixture(autouse=True)
def signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """CIFAR-10's test split alone: the training split is not there."""
    root = tmp_path_factory.mktemp("site")
    content = published.write_cifar10(root / "data", num_val=NUM_VAL, splits=("val",))
    published.write_env(root)
    return root, *content["val"]


def clustering(num_clusters=10, num_heads=1, seed=0):
    """An untrained model whose heads spread images of noise over the clusters."""
    torch.manual_seed(seed)
    model = ClusteringModel(resnet18(width=4), num_clusters, num_heads)
    noise = np.random.default_rng(1).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
    features = published.outputs(model.backbone, noise)
    for head in model.cluster_head:
        torch.nn.init.normal_(head.weight, std=1 / float(features.std(0).mean()))
        head.bias.data = -head.weight.data @ features.mean(0)
    return model


def evaluate(site, tmp_path, model_file, *more, content=published.SCAN):
    """Run eval.py; returns its exit code and what it wrote as JSON."""
    config = published.write_config(tmp_path, content)
    out = tmp_path / "scores.json"
    words = ["--config_env", site[0] / "env.yml", "--config_exp", config, "--json", out, "width=4", "num_workers=0"]
    code = command("eval", "--model", model_file, *words, *more)
    return code, json.loads(out.read_text()) if out.exists() else None


def expected(logits, labels, num_classes=10):
    """The scores of a clustering, by loops and scikit-learn."""
    logits = logits.numpy()
    clusters, num_clusters = logits.argmax(1), logits.shape[1]
    table = np.zeros((num_clusters, num_classes))
    for cluster, label in zip(clusters, labels, strict=True):
        table[cluster, label] += 1
    matching = dict(zip(*(side.tolist() for side in linear_sum_assignment(-table)), strict=True))
    top = np.argsort(-logits, axis=1)[:, : min(5, num_clusters)]
    guesses = [[matching.get(cluster) for cluster in row] for row in top.tolist()]
    return {
        "acc": np.mean([matching.get(c) == label for c, label in zip(clusters.tolist(), labels, strict=True)]),
        "top5": np.mean([label in row for row, label in zip(guesses, labels, strict=True)]),
        "nmi": normalized_mutual_info_score(labels, clusters),
        "ari": adjusted_rand_score(labels, clusters),
        "ami": adjusted_mutual_info_score(labels, clusters),
        "num_samples": len(labels),
    }


def close(scores, wanted):
    assert {key: scores[key] for key in wanted} == pytest.approx(wanted, abs=1e-6)


# Forms of checkpoints


def scan_file(state, head):
    return {"model": state, "head": head}


def prefixed(state):
    return {f"module.{key}": value for key, value in state.items()}


FORMS = {
    "ours": lambda state, head: scan_file(state, head),
    "an older one, the head a numpy number": lambda state, head: scan_file(state, np.int64(head)),
    "resumable": lambda state, head: {
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "model": prefixed(state),
        "epoch": 50,
        "best_loss": np.float64(-2.1),
        "best_loss_head": np.int64(head),
    },
    "our resumable": lambda state, head: {
        "format": 1,
        "model": state,
        "epoch": 3,
        "values": {"best_loss": -1.0, "best_loss_head": head},
    },
    "resumable, python numbers": lambda state, head: {
        "optimizer": {},
        "model": prefixed(state),
        "epoch": 3,
        "best_loss": -1.0,
        "best_loss_head": head,
    },
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_the_stored_head_of_every_form_is_scored(site, tmp_path, form, zipped):
    _, images, labels = site
    model = clustering(num_heads=3)
    wanted = [expected(logits, labels) for logits in published.outputs(model, images)]
    assert wanted[2]["acc"] != wanted[0]["acc"]
    path = tmp_path / "given.pth.tar"
    torch.save(FORMS[form](model.state_dict(), 2), path, _use_new_zipfile_serialization=zipped)
    code, scores = evaluate(site, tmp_path, path)
    assert code == 0
    close(scores, wanted[2])


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": prefixed(state), "epoch": 9}])
def test_a_self_label_model(site, tmp_path, wrap):
    _, images, labels = site
    model = clustering(seed=1)
    torch.save(wrap(model.state_dict()), tmp_path / "model.pth.tar")
    code, scores = evaluate(site, tmp_path, tmp_path / "model.pth.tar", content=published.SELFLABEL)
    assert code == 0
    assert set(scores) == KEYS
    assert all(type(pair) is list and len(pair) == 2 for pair in scores["matching"])
    close(scores, expected(published.outputs(model, images)[0], labels))


def test_a_self_label_config_scores_the_best_head_of_a_scan_model(site, tmp_path):
    _, images, labels = site
    model = clustering(num_heads=2, seed=2)
    torch.save(scan_file(model.state_dict(), 1), tmp_path / "model.pth.tar")
    code, scores = evaluate(site, tmp_path, tmp_path / "model.pth.tar", content=published.SELFLABEL)
    assert code == 0
    close(scores, expected(published.outputs(model, images)[1], labels))


def test_a_config_without_training_keys_is_enough(site, tmp_path):
    _, images, labels = site
    keys = ("setup", "backbone", "train_db_name", "val_db_name", "num_classes", "num_heads", "transformation_kwargs")
    model = clustering(num_heads=4, seed=3)
    torch.save(scan_file(model.state_dict(), 3), tmp_path / "model.pth.tar")
    content = {key: published.SCAN[key] for key in keys} | {"num_heads": 4}
    code, scores = evaluate(site, tmp_path, tmp_path / "model.pth.tar", content=content)
    assert code == 0
    close(scores, expected(published.outputs(model, images)[3], labels))


@pytest.mark.parametrize("name", ["state_dict", "resumable"])
def test_the_purity_of_a_pretext_model(site, tmp_path, name):
    _, images, labels = site
    torch.manual_seed(4)
    model = ContrastiveModel(resnet18(width=4))
    state = model.state_dict()
    content = {"state_dict": state, "resumable": {"optimizer": {}, "model": state, "epoch": 12}}[name]
    torch.save(content, tmp_path / "model.pth.tar")
    code, scores = evaluate(site, tmp_path, tmp_path / "model.pth.tar", content=published.SIMCLR)
    assert code == 0
    assert set(scores) == {"purity"}
    neighbors = published.nearest(published.outputs(model, images).double().numpy(), 20)
    for k in (1, 5, 20):
        share = np.mean([labels[i] == labels[j] for i in range(NUM_VAL) for j in neighbors[i, 1 : k + 1]])
        assert scores["purity"][str(k)] == pytest.approx(share, abs=2e-3)
    assert set(scores["purity"]) == {"1", "5", "20"}


# More clusters than classes, and fewer


@pytest.mark.parametrize("num_clusters", [1, 3, 4, 13])
def test_as_many_clusters_as_one_likes(site, tmp_path, num_clusters, capsys):
    _, images, labels = site
    model = clustering(num_clusters, seed=5)
    torch.save(scan_file(model.state_dict(), 0), tmp_path / "model.pth.tar")
    code, scores = evaluate(site, tmp_path, tmp_path / "model.pth.tar", f"num_classes={num_clusters}")
    assert code == 0
    assert evaluate(site, tmp_path, tmp_path / "model.pth.tar", "num_classes=5")[0] == 1
    said = f"has {num_clusters} clusters, but num_classes of the config is 5; give num_classes={num_clusters}"
    assert said in capsys.readouterr().err
    assert len(scores["matching"]) == min(num_clusters, 10)
    logits = published.outputs(model, images)[0]
    wanted = expected(logits, labels)
    close(scores, wanted)
    if num_clusters > 10:
        clusters = logits.argmax(1).numpy()
        kept = sum(np.bincount(labels[clusters == cluster]).max() for cluster in set(clusters.tolist()))
        assert scores["acc_many_to_one"] == pytest.approx(kept / NUM_VAL)
        assert scores["acc_many_to_one"] >= scores["acc"]


# What is asked for besides


def digits(tmp_path, stage, *more):
    config = REPOSITORY / f"configs/{stage}_digits.yml"
    out = tmp_path / "scores.json"
    words = ["--config_exp", config, f"root_dir={tmp_path}", "width=4", "num_workers=0", "--json", out]
    code = command("eval", *words, *more)
    return code, json.loads(out.read_text()) if out.exists() else None


def test_k_means_and_k_nn_read_the_training_split_too(site, tmp_path, monkeypatch, capsys):
    given, score_kmeans = [], baselines.score_kmeans

    def count(fitted, scored, targets, **options):
        given.append((len(fitted), len(scored), len(targets)))
        return score_kmeans(fitted, scored, targets, **options)

    monkeypatch.setattr(baselines, "score_kmeans", count)
    torch.manual_seed(6)
    model = ContrastiveModel(resnet8(width=4, stem="cifar_s2"))
    (tmp_path / "digits/pretext").mkdir(parents=True)
    torch.save(model.state_dict(), tmp_path / "digits/pretext/model.pth.tar")
    code, scores = digits(tmp_path, "pretext/simclr", "--kmeans", "--kmeans_runs", "2", "--knn")
    assert code == 0
    assert set(scores) == {"purity", "kmeans", "knn_acc"}
    assert set(scores["kmeans"]) == {"acc", "nmi", "ari"}
    assert all(0 < scores["kmeans"]["acc"][key] < 1 for key in ("mean", "std"))
    assert digits(tmp_path, "pretext/simclr", "--kmeans", "--kmeans_runs", "2", "--knn")[1] == scores
    assert given == [(1437, 360, 360)] * 2
    assert digits(tmp_path, "pretext/simclr", "--split", "train")[1]["purity"] != scores["purity"]
    capsys.readouterr()

    torch.save(clustering().state_dict(), tmp_path / "model.pth.tar")
    code, _ = evaluate(site, tmp_path, tmp_path / "model.pth.tar", "--kmeans", content=published.SELFLABEL)
    assert code == 1
    assert "cifar-10" in capsys.readouterr().err


def test_pictures_are_files(site, tmp_path, monkeypatch):
    _, images, _ = site
    model = clustering(12, seed=7)
    torch.save(scan_file(model.state_dict(), 0), tmp_path / "model.pth.tar")
    shown, draw = [], Axes.imshow
    monkeypatch.setattr(Figure, "savefig", SAVE_FIGURE)
    monkeypatch.setattr(Axes, "imshow", lambda axes, image, **more: shown.append(image) or draw(axes, image, **more))
    words = ["num_classes=12", "--visualize_prototypes", "--out", tmp_path / "pictures"]
    assert evaluate(site, tmp_path, tmp_path / "model.pth.tar", *words)[0] == 0
    assert evaluate(site, tmp_path, tmp_path / "model.pth.tar", "num_classes=12")[0] == 0
    with Image.open(tmp_path / "pictures/prototypes.png") as picture:
        assert min(picture.size) > 100
    assert not (tmp_path / "prototypes.png").exists()

    # A prototype is, of the ten most confident in its cluster, the one nearest to their mean.
    with torch.no_grad():
        features = model.eval().backbone(published.normalized(images)).double().numpy()
    probabilities = published.outputs(model, images)[0].softmax(1).numpy()
    clusters = probabilities.argmax(1)
    shown = [image for image in shown if image.shape == (32, 32, 3)]  # and not two confusion matrices
    for cluster, image in zip(sorted(set(clusters.tolist())), shown, strict=True):
        members = sorted(np.flatnonzero(clusters == cluster), key=lambda i: -probabilities[i].max())[:10]
        distances = np.linalg.norm(features[members] - features[members].mean(0), axis=1)
        assert np.array_equal(image, images[members[distances.argmin()]].transpose(1, 2, 0))


def test_the_confusion_matrix_is_next_to_the_model(site, tmp_path):
    torch.save(clustering().state_dict(), tmp_path / "model.pth.tar")
    assert evaluate(site, tmp_path, tmp_path / "model.pth.tar", content=published.SELFLABEL)[0] == 0
    assert list(tmp_path.glob("*.png")) == [tmp_path / "confusion_matrix.png"]


# What cannot be


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--model", "nowhere.pth.tar"], 1, "nowhere.pth.tar"),
        (["width=8"], 1, "does not fit the backbone"),
        (["backbone=resnet50"], 2, "resnet50"),
        (["num_clases=9"], 2, "did you mean 'num_classes'"),
        (["--split", "test"], 2, "--split"),
        (["--kmeans_runs", "0"], 2, "--kmeans_runs"),
        (["data_root=/nowhere"], 1, "cifar-10"),
        (["--split", "train"], 1, "cifar-10"),
        (["device=cuda:77"], 1, "cuda:77"),
        (["transformation_kwargs=null"], 2, "transformation_kwargs"),
    ],
)
def test_what_cannot_be_is_a_sentence(site, tmp_path, capsys, monkeypatch, words, code, sentence):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    torch.save(clustering().state_dict(), tmp_path / "model.pth.tar")
    assert evaluate(site, tmp_path, tmp_path / "model.pth.tar", *words) == (code, None)
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_scores_do_not_go_into_the_model_or_a_file_of_a_run(site, tmp_path, capsys):
    model, record = tmp_path / "model.pth.tar", tmp_path / "run.json"
    torch.save(clustering().state_dict(), model)
    write_text(record, "{}", record=True)
    before = model.read_bytes()
    assert evaluate(site, tmp_path, model, "--json", model) == (2, None)
    assert "--json is" in capsys.readouterr().err and model.read_bytes() == before
    assert evaluate(site, tmp_path, model, "--json", record) == (2, None)
    assert "a file of a run" in capsys.readouterr().err and record.read_text() == "{}"


def test_a_model_of_another_stage(site, tmp_path, capsys):
    torch.save(ContrastiveModel(resnet18(width=4)).state_dict(), tmp_path / "model.pth.tar")
    assert evaluate(site, tmp_path, tmp_path / "model.pth.tar")[0] == 1
    assert "is not a clustering model" in capsys.readouterr().err
    torch.save(clustering().state_dict(), tmp_path / "model.pth.tar")
    assert evaluate(site, tmp_path, tmp_path / "model.pth.tar", content=published.SIMCLR)[0] == 1
    assert "not a pretext model" in capsys.readouterr().err


def test_a_validation_folder_that_lacks_a_class(tmp_path):
    """Class numbers follow the names that training has: gray levels separate the classes, so the vote is right."""
    for split, classes in (("train", "abc"), ("val", "bc")):
        for name in classes:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                level = np.full((16, 16, 3), 80 * ord(name) % 256 + i, dtype=np.uint8)
                level[::2, :: ord(name) - 95] = 0
                Image.fromarray(level).save(tmp_path / split / name / f"{i}.png")
    torch.manual_seed(8)
    torch.save(ContrastiveModel(resnet8(width=4, stem="cifar_s2")).state_dict(), tmp_path / "model.pth.tar")
    roots = [f"{split}_db_kwargs.root={tmp_path / split}" for split in ("train", "val")]
    names = ["train_db_name=folder", "val_db_name=folder", "criterion_kwargs.temperature=0.001"]
    code, scores = digits(tmp_path, "pretext/simclr", "--knn", "--model", tmp_path / "model.pth.tar", *roots, *names)
    assert code == 0
    assert scores["knn_acc"] == 1


def test_a_classifier_knows_the_classes_of_its_training(tmp_path):
    """All images are called the second of three classes, which three of four are; by its own names one would be."""
    for name, num_images in (("b", 3), ("c", 1)):
        (tmp_path / "val" / name).mkdir(parents=True)
        for i in range(num_images):
            Image.fromarray(np.full((16, 16, 3), 60 * i, dtype=np.uint8)).save(tmp_path / "val" / name / f"{i}.png")
    model = ClassifierModel(resnet8(width=4, stem="cifar_s2"), 3)
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.tensor([0.0, 1.0, 0.5])
    torch.save(model.state_dict(), tmp_path / "model.pth.tar")
    (tmp_path / "config.yml").write_text("class_names: [a, b, c]\n")
    words = [f"val_db_kwargs.root={tmp_path / 'val'}", "val_db_name=folder", "num_classes=3"]
    code, scores = digits(tmp_path, "pretext/supervised", "--model", tmp_path / "model.pth.tar", *words)
    assert (code, scores["acc"]) == (0, 0.75)


@pytest.mark.parametrize("flag", ["--kmeans", "--knn"])
def test_scores_by_labels_are_refused_before_any_work(tmp_path, capsys, flag):
    for i in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 80 * i, dtype=np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    torch.save(ContrastiveModel(resnet8(width=4, stem="cifar_s2")).state_dict(), tmp_path / "model.pth.tar")
    words = ["train_db_name=folder", "val_db_name=null", f"train_db_kwargs.root={tmp_path / 'photos'}"]
    assert digits(tmp_path, "pretext/simclr", flag, "--model", tmp_path / "model.pth.tar", *words)[0] == 1
    said = capsys.readouterr()
    assert "the val split has none" in said.err
    assert "model.pth.tar on 3" not in said.out


def test_a_missing_model_names_the_command_that_trains_it(site, tmp_path, capsys):
    config = published.write_config(tmp_path, published.SCAN)
    words = ["--config_env", site[0] / "env.yml", "--config_exp", config, "width=4"]
    assert command("eval", *words) == 1
    assert (
        f"train it (python scan.py --config_env {site[0] / 'env.yml'} --config_exp {config} width=4)"
        in capsys.readouterr().err
    )
    assert command("eval", *words, "--model", tmp_path) == 1
    assert "is a folder; give a model file" in capsys.readouterr().err
