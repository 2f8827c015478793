"""Other pretext tasks as whole runs, tiny: interrupted and continued, mined again, clustered, scored, refused."""

import functools
import json

import numpy as np
import pytest
import torch

import eval as evaluation
import scan
from data import DATASETS
from sweeps.plan import make_plan
from system.files import REPOSITORY
from tests.stage import few_digits
from training.run import Run
from utils import cli
from utils.setups import SETUPS
from utils.stage import main_of

pytestmark = [pytest.mark.usefixtures("signals", "empty_pictures"), pytest.mark.slow]
FEW = few_digits(48, 48)
TINY = ["epochs=2", "batch_size=16", "width=4", "num_mined_train=8", "knn_every=1", "device=cpu", "log_every=2", *FEW]
METHODS = ["rotnet", "instdisc", "supervised", "byol"]
NCE = ["criterion=instdisc-nce", "criterion_kwargs={num_noise: 20}"]
CASES = {**{name: [] for name in METHODS}, "byol": ["model_kwargs.features_dim=4"], "nce": NCE}


class Killed(BaseException):
    """Nobody catches it: the run is gone, but for what it wrote."""


def command(case, root, *words):
    name = case if case in SETUPS else "instdisc"
    config = str(REPOSITORY / f"configs/pretext/{name}_digits.yml")
    return name, ["--config_exp", config, f"root_dir={root}", *TINY, *CASES[case], *words]


def run(case, root, *words):
    name, words = command(case, root, *words)
    return cli.run(main_of(name), words)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Every method's run, under the name its config gives it."""
    root = tmp_path_factory.mktemp("methods")
    for case in CASES:
        assert run(case, root, *(["run_name=nce"] if case == "nce" else [])) == 0
    return root


@pytest.mark.parametrize("case", CASES)
def test_killed_and_continued_ends_the_same(case, root, tmp_path, monkeypatch):
    real, calls = Run.step, []

    def step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise Killed
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", step)
        with pytest.raises(Killed):
            run(case, tmp_path, "run_name=x", "checkpoint_every.minutes=1e-9")
    assert run(case, tmp_path, "run_name=x") == 0
    found, expected = tmp_path / "digits/pretext/x", root / "digits/pretext" / case
    for file in ("model.pth.tar", "checkpoint.pth.tar"):
        same(torch.load(found / file), torch.load(expected / file), file)
    for split in ("train", "val"):
        for file in (f"topk-{split}-neighbors.npy", f"features-{split}.npy"):
            assert np.array_equal(np.load(found / file), np.load(expected / file))
    assert (found / "metrics.jsonl").read_text() == (expected / "metrics.jsonl").read_text()


def same(found, expected, place):
    """Equal to the bit, but for the seconds that they took."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key in expected.keys() - {"seconds"}:
            same(found[key], expected[key], f"{place}/{key}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), place
    else:
        assert found == expected, place


def test_checkpoints_hold_bank_and_target(root):
    bank = torch.load(root / "digits/pretext/nce/checkpoint.pth.tar")["bank"]
    assert bank["vectors"].shape == (48, 128)
    assert float(bank["scale"]) > 0
    state = torch.load(root / "digits/pretext/byol/checkpoint.pth.tar")
    rates = [group["lr"] for group in state["optimizer"]["param_groups"]]
    assert rates[1] == pytest.approx(10 * rates[0])
    same(state["target"], torch.load(root / "digits/pretext/byol/model.pth.tar"), "target")


@pytest.mark.parametrize("case", METHODS)
def test_mining_alone_finds_the_same(case, root, tmp_path):
    folder = root / "digits/pretext" / case
    for file in ("model.pth.tar", "checkpoint.pth.tar"):  # BYOL's checkpoint also holds the network that is trained
        place = tmp_path / file
        assert run(case, place, "--mine_only", "--model", str(folder / file)) == 0
        for name in ("topk-train-neighbors.npy", "topk-val-neighbors.npy"):
            assert np.array_equal(np.load(place / "digits/pretext" / case / name), np.load(folder / name))


@pytest.mark.parametrize("case", METHODS)
def test_scan_goes_on_and_eval_scores(case, root, tmp_path):
    config = str(REPOSITORY / "configs/scan/scan_digits.yml")
    words = [*FEW, "epochs=1", "batch_size=16", "width=4", "num_neighbors=5", "num_heads=2", f"pretext_run={case}"]
    assert cli.run(scan.main, ["--config_exp", config, f"root_dir={root}", *words, f"run_name={case}"]) == 0
    out = tmp_path / "scores.json"
    assert cli.run(evaluation.main, [*command(case, root)[1], "--json", str(out)]) == 0
    scores = json.loads(out.read_text())
    assert set(scores["purity"]) == {"1", "5", "20"}
    assert ("acc" in scores, "top5" in scores) == (case == "supervised",) * 2


@pytest.mark.parametrize("case", METHODS)
def test_a_dry_run_writes_nothing(case, tmp_path, capsys):
    assert run(case, tmp_path, "--dry_run") == 0
    assert "a checkpoint takes" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", METHODS)
def test_a_sweep_takes_the_method(case, tmp_path):
    _, words = command(case, tmp_path)
    plan = make_plan("pretext", None, {"pretext": words[1]}, ["seed=0,1"])
    assert [job.config().setup for job in plan.jobs] == [case] * 2


BAD = {
    "more noise than images": ("nce", ["criterion_kwargs={num_noise: 49}"], 1, "num_noise is 49, but the training"),
    "a layer that is not there": ("rotnet", ["backbone=resnet8", "mine_features=layer4"], 2, "mine_features"),
    "an unknown option": ("rotnet", ["method_kwargs.turns=4"], 2, "unknown key 'method_kwargs.turns'; rotnet takes no"),
    "an option out of range": ("supervised", ["method_kwargs.label_fraction=0"], 2, "label_fraction is 0"),
    "a misspelt option": ("byol", ["method_kwargs.momentun=1"], 2, "did you mean 'momentum'?"),
    "too few classes": ("supervised", ["num_classes=9"], 1, "has 10 classes; set num_classes=10"),
    "too few labeled images": ("supervised", ["method_kwargs.label_fraction=0.1"], 1, "has 10 training images"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case, tmp_path, capsys):
    name, words, code, told = BAD[case]
    assert run(name, tmp_path, *words) == code
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_supervision_needs_labels(tmp_path, capsys, monkeypatch):
    build = DATASETS["digits"]

    @functools.wraps(build)  # which says what options there are
    def without(*args, **kwargs):
        dataset = build(*args, **kwargs)
        dataset.targets[:] = -1
        return dataset

    monkeypatch.setitem(DATASETS, "digits", without)
    assert run("supervised", tmp_path) == 1
    assert "supervised training needs labels" in capsys.readouterr().err
