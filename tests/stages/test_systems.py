"""IIC and UCC end to end on few digits: what they leave, go on from, and refuse; eval.py and predict.py take it."""

import functools
import importlib
import json

import pytest
import torch
from PIL import Image
from sklearn.cluster import KMeans

import eval as evaluation
import predict
from data import digits
from data.augment import Evaluation, Normalize
from data.bags import BagLoader, Bags
from methods import ucc
from system.runtime import Runtime
from tests.stage import few_digits
from tests.stages.test_resume import Killed, before, kill, outcome
from training.run import Run
from utils import cli
from utils.config import REPOSITORY

pytestmark = [pytest.mark.usefixtures("signals", "empty_pictures"), pytest.mark.slow]
FEW = few_digits(200, 144)
TINY = {
    "iic": ["epochs=3", "batch_size=64", "width=2", "method_kwargs.over_clusters=15", "num_heads=2"],
    "ucc": ["epochs=3", "batch_size=64", "width=2", "method_kwargs.bag_size=8"],
}
EVERY_STEP = "checkpoint_every={minutes: 1e-9}"


def config(name):
    return str(REPOSITORY / f"configs/methods/{name}_digits.yml")


def stage(name, root, *more):
    main = importlib.import_module(f"methods.{name}").main
    words = ["--config_exp", config(name), "num_workers=0", f"root_dir={root}", *FEW, *TINY[name], *more]
    try:
        return cli.run(main, words)
    except SystemExit as error:
        return error.code


@pytest.fixture(scope="module", params=TINY)
def finished(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    assert stage(request.param, root) == 0
    return request.param, root


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_eval_scores_what_the_run_left(finished, tmp_path):
    name, root = finished
    folder = root / "digits" / name
    model = torch.load(folder / "model.pth.tar")
    assert model.keys() == {"model", "head"}
    assert {key.split(".")[0] for key in model["model"]} == {"backbone", "cluster_head"}
    words = ["--config_exp", config(name), f"root_dir={root}", *FEW, *TINY[name], "--json", str(tmp_path / "x.json")]
    assert cli.run(evaluation.main, words) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    result = json.loads((folder / "run.json").read_text())["result"]
    assert {"acc", "nmi", "ari", "ami", "top5", "matching", "num_samples"} <= found.keys()
    assert found["acc"] == result["acc"]


def test_predict_takes_the_model(finished, tmp_path):
    name, root = finished
    Image.fromarray(torch.randint(256, (16, 16), dtype=torch.uint8).numpy()).save(tmp_path / "a.png")
    output = tmp_path / "out.csv"
    words = ["--model", str(root / "digits" / name), str(tmp_path / "a.png"), "--output", str(output)]
    assert cli.run(predict.main, words) == 0
    header, row = output.read_text().splitlines()
    assert header == "path,cluster,confidence"
    assert 0 <= int(row.split(",")[1]) < 10


def test_an_interrupted_run_ends_with_the_same_bits(finished, tmp_path):
    name, root = finished
    with pytest.MonkeyPatch.context() as patch:
        before(patch, Run, "step", 5, kill)
        with pytest.raises(Killed):
            stage(name, tmp_path, EVERY_STEP)
    assert torch.load(tmp_path / "digits" / name / "checkpoint.pth.tar")["step"] > 0  # within an epoch
    assert stage(name, tmp_path, EVERY_STEP) == 0
    assert outcome(tmp_path / "digits" / name) == outcome(root / "digits" / name)


@pytest.mark.parametrize("finished", ["iic"], indirect=True)
def test_the_epochs_of_iic_take_turns_and_its_best_head_is_kept(finished):
    _, root = finished
    lines = metrics(root / "digits/iic")
    assert [line["trained"] for line in lines] == ["A", "B", "B"]
    assert [line["loss"] for line in lines[:1]] == [line["over_loss"] for line in lines[:1]]
    for line in lines[1:]:
        assert line["loss"] == pytest.approx((line["head_0"] + line["head_1"]) / 2, abs=2e-6)
    lowest = min(lines, key=lambda line: min(line["head_0"], line["head_1"]))
    assert torch.load(root / "digits/iic/model.pth.tar")["head"] == lowest["head"]


@pytest.mark.parametrize("finished", ["ucc"], indirect=True)
def test_the_head_of_ucc_is_k_means_on_its_features(finished):
    _, root = finished
    from utils.clusters import load_clustering
    from utils.common_config import get_embedder
    from utils.config import load_config

    p = load_config(None, config("ucc"), [f"root_dir={root}", *FEW, *TINY["ucc"]])
    model, head = load_clustering(p, root / "digits/ucc/model.pth.tar")
    features = get_embedder(p, Runtime.of(p)).embed(model.backbone, digits.build(root, "train", 16, num_images=200))
    expected = KMeans(10, n_init=10, random_state=0).fit(features.numpy())
    assert model.cluster_head[head](features).argmax(1).tolist() == expected.labels_.tolist()


class Told(torch.nn.Module):
    """Logits of bags that say `counts`, whatever the images are."""

    def __init__(self, counts, most):
        super().__init__()
        self.logits = torch.nn.functional.one_hot(torch.as_tensor(counts), most).float()

    def forward(self, images):
        return [self.logits, images]


@pytest.mark.parametrize(("counts", "share"), [([0, 1, 2, 3, 0, 1, 2, 3], 1.0), ([0] * 8, 0.25), ([3, 0] * 4, 0.0)])
def test_counts_of_unseen_bags_are_scored(counts, share, tmp_path):
    runtime = Runtime.start("cpu")
    unseen = digits.build(tmp_path, "val", 16)
    strategy = Evaluation(16, Normalize(mean=[0.0] * 3, std=[1.0] * 3))
    loader = BagLoader(Bags(unseen, 8, 4, ("unseen",)), unseen, [strategy], 64, runtime, ("unseen",), num_workers=0)
    assert ucc.count_accuracy(Told(counts, 4), loader, runtime) == share


def test_what_bags_of_validation_images_lack_is_said_before_training(tmp_path, capsys):
    assert stage("ucc", tmp_path, *few_digits(200, 40), "epochs=1") == 0
    shown = capsys.readouterr()
    assert "counts of unseen bags will not be predicted: there are 40 validation images" in shown.err
    assert "unseen_bag_acc" not in json.loads((tmp_path / "digits/ucc/run.json").read_text())["result"]


REFUSED = {
    "fewer clusters in the heads A": ("iic", ["method_kwargs.over_clusters=9"], 2, "over_clusters is 9"),
    "epochs for the heads A alone": (
        "iic",
        ["epochs=2", "method_kwargs.over_passes=2"],
        2,
        "epochs is 2, and the first",
    ),
    "an unknown option": ("iic", ["method_kwargs.over_cluster=9"], 2, "over_clusters"),
    "another method's option": ("iic", ["method_kwargs={bag_size: 3}"], 2, "bag_size"),
    "a value out of range": ("ucc", ["method_kwargs.most=1"], 2, "method_kwargs.most is 1"),
    "fewer images than a bag": ("ucc", ["method_kwargs.bag_size=201", "batch_size=804"], 1, "fewer than a bag of 201"),
    "a batch of broken bags": ("ucc", ["batch_size=60"], 2, "multiple of 32"),
    "another network": ("ucc", ["backbone=resnet8"], 2, "for views of 16 pixels UCC's is ucc/16"),
    "a network of another side": ("ucc", ["backbone=ucc/28"], 2, "for views of 16 pixels UCC's is ucc/16"),
    "another method's loss": ("ucc", ["criterion=scan", "criterion_kwargs={}"], 2, "methods.ucc trains by ucc"),
    "bags smaller than their classes": ("ucc", ["method_kwargs.bag_size=2"], 2, "holds at least 4 images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(case, tmp_path, capsys):
    name, words, code, text = REFUSED[case]
    assert stage(name, tmp_path, *words) == code
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ")
    assert text in message


def test_ucc_without_labels_is_refused_in_a_sentence(tmp_path, capsys, monkeypatch):
    from data import DATASETS

    build = DATASETS["digits"]

    @functools.wraps(build)  # which says what options there are
    def unlabeled(*args, **kwargs):
        dataset = build(*args, **kwargs)
        dataset.targets.fill_(-1)
        return dataset

    monkeypatch.setitem(DATASETS, "digits", unlabeled)
    assert stage("ucc", tmp_path) == 1
    assert "digits has no labels" in capsys.readouterr().err


def test_views_without_information_are_warned_of(tmp_path, capsys):
    assert stage("iic", tmp_path, "epochs=2", "optimizer_kwargs.lr=1e-9") == 0
    assert "said almost nothing" in capsys.readouterr().err
