"""Interrupted anywhere, a stage goes on and ends as if nothing had happened; damage and nonsense are noticed."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clustering.neighbors import load_neighbors
from data import digits
from models.weights import read_weights, save_weights
from system import atomic, files
from system.signals import STOPPING
from tests import stage as stages
from training import checkpoint
from training.record import read_record
from training.run import Run
from utils.config import REPOSITORY

SCRIPTS = {folder: script for script, folder in stages.FOLDERS.items()}
pytestmark = pytest.mark.usefixtures("signals", "empty_pictures")
ALL = [*stages.few_digits(48, 48), "batch_size=16", "log_every=2", "optimizer_kwargs.lr=0.01"]
OWN = {
    "pretext": ["knn_every=1", "average_decay=0.6"],
    "scan": ["num_heads=2", "average_decay=0.6"],
    "selflabel": ["confidence_threshold=0.12", "use_ema=true", "ema_alpha=0.9"],
}
FULL = namedtuple("usage", "total used free")(1 << 40, 1 << 40, 0)
EVERY_STEP = "checkpoint_every.minutes=1e-9"
FIXMATCH = ["criterion=fixmatch", "criterion_kwargs={}", "reliable_batch_size=5", "reliable_neighbors=9"]
FIXMATCH += ["average_decay=0.6"]


class Killed(BaseException):
    """Nobody catches it: the run is gone, but for what it wrote."""


def stage(name, root, *more):
    """Run the stage of a folder, with all that a checkpoint has to keep; returns the exit code."""
    return stages.stage(SCRIPTS[name], root, *ALL, *OWN[name], *more)


def before(patch, owner, name, number, action):
    """Do something before the given call of a function; the action may patch more."""
    real, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(name)
        if len(calls) == number:
            action(patch)
        return real(*args, **kwargs)

    patch.setattr(owner, name, call)


def kill(patch):
    raise Killed


def kill_between_renames(patch):
    before(patch, os, "replace", 3, kill)  # after those of the manifest and of the last checkpoint, which is kept


def stop(patch, number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def interrupted(name, root, method, number, action, *more):
    """Run a stage as run x, to which something happens before the given call of a method of Run.

    Returns the exit code; of a kill that is 137, as a shell would say.
    """
    with pytest.MonkeyPatch.context() as patch:
        before(patch, Run, method, number, action)
        try:
            return stage(name, root, "run_name=x", *more)
        except Killed:
            return 137


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """All stages, uninterrupted."""
    root = tmp_path_factory.mktemp("reference")
    for name in SCRIPTS:
        assert stage(name, root) == 0
    return root / "digits"


@pytest.fixture
def root(reference, tmp_path):
    """A results folder with the finished stages, to be continued or damaged."""
    shutil.copytree(reference, tmp_path / "digits")
    return tmp_path


def flatten(value, prefix=""):
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flatten(item, f"{prefix}{key}/").items()}
    if isinstance(value, list):
        return flatten(dict(enumerate(value)), prefix)
    return {prefix: value.numpy().tobytes() if isinstance(value, torch.Tensor) else value}


def outcome(folder):
    """All that a run leaves, to the bit, but for the times it took."""
    found = {"files": sorted(path.name for path in folder.iterdir())}
    files.verify_file(folder / checkpoint.PREVIOUS)  # which step it holds, interruptions decide
    for path in {*folder.glob("*.pth.tar")} - {folder / checkpoint.PREVIOUS}:
        assert files.verify_file(path) is not None
        content = flatten(torch.load(path, weights_only=True))
        found[path.name] = {key: value for key, value in content.items() if key != "seconds/"}
    for path in folder.glob("*.npy"):
        found[path.name] = np.load(path).tobytes()
    found["metrics"] = (folder / "metrics.jsonl").read_text()
    found["result"] = json.loads((folder / "run.json").read_text())["result"]
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    return found


def assert_ends_the_same(reference, root, name="scan"):
    """The same command continues with run x, which leaves what an uninterrupted run leaves."""
    assert stage(name, root, "run_name=x") == 0
    assert outcome(root / "digits" / name / "x") == outcome(reference / name)


# Six steps: three in each of two epochs. What happens before which call, the exit code, and more words of the command.
INTERRUPTIONS = {
    "killed mid-epoch, saved every step": ("step", 5, kill, 137, EVERY_STEP),
    "killed mid-epoch, saved every epoch": ("step", 6, kill, 137),
    "killed after an epoch, before its checkpoint": ("end_epoch", 2, kill, 137),
    "killed after the last checkpoint": ("finish", 1, kill, 137),
    "killed in the first step": ("step", 1, kill, 137),
    "killed between the renames of a checkpoint": ("save", 2, kill_between_renames, 137),
    "signalled in the last step of an epoch": ("step", 3, stop, 143),
    "signalled at the end of an epoch": ("end_epoch", 1, stop, 143),
    "signalled in the last checkpoint": ("save", 2, stop, 143),
    "signalled while the end is prepared": ("finish", 1, stop, 143),
}
PLACES = [(name, moment) for name in SCRIPTS for moment in list(INTERRUPTIONS)[: None if name == "scan" else 4]]


@pytest.mark.parametrize(("name", "moment"), PLACES)
def test_interrupted_and_continued_ends_the_same(reference, root, name, moment):
    method, number, action, code, *more = INTERRUPTIONS[moment]
    assert interrupted(name, root, method, number, action, *more) == code
    assert_ends_the_same(reference, root, name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_signal_saves_the_step_and_the_command_goes_on(reference, root, capfd, name):
    number, code = (signal.SIGINT, 130) if name == "scan" else (signal.SIGTERM, 143)
    assert interrupted(name, root, "step", 5, lambda patch: stop(patch, number)) == code
    folder = root / "digits" / name / "x"
    assert f"everything up to epoch 2, step 2 is in {folder}; the same command continues" in capfd.readouterr().err
    assert interrupted(name, root, "step", 2, lambda _: pytest.fail("a step was done twice")) == 0
    assert outcome(folder) == outcome(reference / name)


def test_stopped_again_and_again(reference, root):
    """A run that is preempted after every single step."""
    for _ in range(6):
        assert interrupted("selflabel", root, "step", 1, stop) == 143
    assert_ends_the_same(reference, root, "selflabel")


def test_reliable_labels_are_the_same_after_a_kill(root):
    """Also the average of the weights, which is the model."""
    assert stage("selflabel", root, "run_name=whole", *FIXMATCH) == 0
    assert interrupted("selflabel", root, "step", 5, kill, *FIXMATCH, EVERY_STEP) == 137
    assert stage("selflabel", root, "run_name=x", *FIXMATCH) == 0
    whole = outcome(root / "digits/selflabel/whole")
    assert outcome(root / "digits/selflabel/x") == whole
    found = {name: value for name, value in whole["checkpoint.pth.tar"].items() if name.startswith("average/")}
    assert found == {f"average/{name}": value for name, value in whole["model.pth.tar"].items()}


def test_streamed_images_with_other_worker_counts(tmp_path):
    """One run with one worker; one that began with two, was killed and signalled mid-epoch, and went on without.

    A shell's Ctrl-C and a scheduler signal the workers too, and these may be the first to know.
    """

    def signal_workers_and_eight_steps_later_the_run(patch):
        assert multiprocessing.active_children()
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGTERM)
        before(patch, Run, "step", 8, stop)

    for index, image in enumerate(digits.build(Path(), "train", 16, num_images=48).images):
        (tmp_path / "shown").mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "shown" / f"{index:03}.png")
    folder = [
        "train_db_name=folder",
        "val_db_name=null",
        f"train_db_kwargs={{root: {tmp_path}/shown, stream: true}}",
        "val_db_kwargs={}",
        "batch_size=4",
    ]
    assert stage("pretext", tmp_path / "results", *folder, "num_workers=1") == 0
    two = [*folder, "num_workers=2"]
    assert interrupted("pretext", tmp_path / "results", "step", 4, kill, *two, EVERY_STEP) == 137
    assert (
        interrupted("pretext", tmp_path / "results", "step", 1, signal_workers_and_eight_steps_later_the_run, *two)
        == 143
    )
    assert stage("pretext", tmp_path / "results", *folder, "run_name=x") == 0
    one = outcome(tmp_path / "results/shown/pretext/x")
    other = outcome(tmp_path / "results/shown/pretext")
    other["files"].remove("x")
    assert one == other


# A process of its own

CHILD = """
import os, signal, sys
from tests.stages import test_resume as tests

def wait_for_a_signal(patch):
    arrived, arrives = os.pipe()
    os.set_blocking(arrives, False)
    signal.set_wakeup_fd(arrives)
    print("here", flush=True)
    os.read(arrived, 1)

tests.torch.set_num_threads(1)
sys.exit(tests.interrupted("scan", sys.argv[1], "step", 5, wait_for_a_signal, tests.EVERY_STEP))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", STOPPING)
def test_a_process_that_is_signalled_mid_epoch(reference, root, capfd, number):
    """Another one is refused while it lives; afterwards the same command goes on."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, root], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert any(line == "here\n" for line in process.stdout)
    assert stage("scan", root, "run_name=x") == 1
    assert f"is in use by another run (process {process.pid} on " in capfd.readouterr().err
    process.send_signal(number)
    process.communicate()
    assert process.returncode == 128 + number
    (root / "digits/scan/x" / f"model.pth.tar.1{atomic.TEMPORARY}").write_bytes(b"left by a kill")
    assert_ends_the_same(reference, root)


# A run that is there already


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_finished_run_says_so_and_changes_nothing(root, capsys, name):
    folder = root / "digits" / name
    old = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    assert stage(name, root, "num_workers=3", "log_every=7", "checkpoint_every.epochs=5") == 0
    said = capsys.readouterr().out
    assert "this run is finished; overwrite=true starts it again" in said and "labels only score" in said
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == old


def test_another_config_is_refused_by_name_and_overwrite_starts_again(reference, root, capsys):
    other = ["epochs=1", "optimizer_kwargs.weight_decay=0.5"]
    assert stage("scan", root, *other) == 2
    said = capsys.readouterr().err
    assert "epochs, optimizer_kwargs.weight_decay differ; run_name=NAME" in said
    (root / "digits/scan/notes.txt").write_text("a user's own")
    (root / "digits/scan/mine.pth.tar").write_text("a user's own")
    assert stage("scan", root, *other, "overwrite=true") == 0
    assert len((root / "digits/scan/metrics.jsonl").read_text().splitlines()) == 1
    assert stage("scan", root, "overwrite=true") == 0
    (root / "digits/scan/notes.txt").unlink()
    (root / "digits/scan/mine.pth.tar").unlink()
    assert outcome(root / "digits/scan") == outcome(reference / "scan")


def test_a_run_that_kept_nothing_holds_nobody_up(root):
    assert stage("scan", root, "run_name=x", "batch_size=1000") == 1
    assert stage("scan", root, "run_name=x", "epochs=1") == 0


def test_another_precision_is_noted(root, capsys):
    assert interrupted("scan", root, "end_epoch", 2, kill) == 137
    assert stage("scan", root, "run_name=x", "device=cpu") == 0
    assert "this run began with device=auto and continues with device=cpu" in capsys.readouterr().out


@pytest.mark.parametrize(("precision", "name"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_auto_goes_on_in_the_precision_that_a_run_began_with(root, precision, name):
    """As on another machine, where auto alone would choose the other one."""
    assert interrupted("scan", root, "end_epoch", 2, kill, f"precision={precision}") == 137
    assert stage("scan", root, "run_name=x", "precision=auto") == 0
    assert read_record(root / "digits/scan/x")["precision"] == name


# Damage


def damaged(path):
    """The file truncated at ten places, and with one of twenty bits flipped."""
    whole = path.read_bytes()
    places = random.Random(path.name)
    for tenth in range(10):
        path.write_bytes(whole[: len(whole) * tenth // 10])
        yield
    for _ in range(20):
        place = places.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << places.randrange(8)]) + whole[place + 1 :])
        yield
    path.write_bytes(whole)


def test_damage_to_every_kind_of_file_is_noticed(root):
    """Whatever a stage or a later call reads again: one check, and the readers that make it."""
    readers = {"model.pth.tar": read_weights, "model-best.pth.tar": read_weights}
    readers |= {f"topk-{split}-neighbors.npy": lambda path: load_neighbors(path, 48, 5) for split in ("train", "val")}
    kinds = set()
    for path in sorted(root.glob("digits/*/*")):
        if path.suffix == ".png" or path.name in (".lock", "metrics.jsonl"):  # nobody reads them
            continue
        kinds.add(path.name)
        for _ in damaged(path):
            with pytest.raises(files.UserError, match=r"damaged|empty|no readable"):
                readers.get(path.name, files.verify_file)(path)
    assert kinds == {
        *("checkpoint.pth.tar", "checkpoint-previous.pth.tar", "model.pth.tar", "model-best.pth.tar", "config.yml"),
        *("topk-train-neighbors.npy", "topk-val-neighbors.npy", "features-train.npy", "features-val.npy"),
        *("run.json", "manifest.json"),
    }


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("scan", "pretext/model.pth.tar"),
        ("scan", "pretext/topk-train-neighbors.npy"),
        ("scan", "pretext/topk-val-neighbors.npy"),
        ("scan", "pretext/manifest.json"),
        ("selflabel", "scan/model.pth.tar"),
        ("selflabel", "pretext/topk-val-neighbors.npy"),
    ],
)
def test_a_damaged_input_is_an_error(root, capsys, name, damage):
    flip(root / "digits" / damage)
    assert stage(name, root, "run_name=x") == 1
    said = capsys.readouterr().err
    assert f"{damage} is" in said and "Traceback" not in said
    (root / "digits" / damage).unlink()
    if damage.endswith("manifest.json"):  # then it is as with published files: used with a word
        assert stage(name, root, "run_name=x") == 0
        assert "has no record" in capsys.readouterr().out
    elif name == "scan":
        assert stage(name, root, "run_name=x") == 1
        assert damage in capsys.readouterr().err


@pytest.fixture(scope="module")
def killed_once(reference, tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    shutil.copytree(reference, root / "digits")
    assert interrupted("scan", root, "step", 5, kill, EVERY_STEP) == 137
    return root / "digits/scan/x"


@pytest.fixture
def killed(root, killed_once):
    """The folder of a run that was killed in its second epoch, with a checkpoint of every step."""
    return Path(shutil.copytree(killed_once, root / "digits/scan/x"))


def test_a_damaged_newest_checkpoint_costs_a_step_not_the_run(reference, root, killed, capsys):
    flip(killed / checkpoint.NEWEST)
    assert_ends_the_same(reference, root)
    assert "continuing from checkpoint-previous.pth.tar (epoch 2, step 1) instead" in capsys.readouterr().err


def test_both_checkpoints_damaged_is_an_error(root, killed, capsys):
    for name in (checkpoint.NEWEST, checkpoint.PREVIOUS):
        flip(killed / name)
    assert stage("scan", root, "run_name=x") == 1
    assert "overwrite=true starts again" in capsys.readouterr().err
    assert stage("scan", root, "run_name=x", "overwrite=true") == 0


@pytest.mark.parametrize("name", ["config.yml", "manifest.json"])
def test_what_a_run_is_known_by_is_damaged(reference, root, killed, capsys, name):
    flip(killed / name)
    assert stage("scan", root, "run_name=x") == 1
    assert f"{name} is" in capsys.readouterr().err
    (killed / name).unlink()
    assert_ends_the_same(reference, root)


def test_a_damaged_result_is_found_again(reference, root, capsys):
    flip(root / "digits/scan/run.json")
    assert stage("scan", root) == 0
    assert "run.json is damaged; what it says is left out" in capsys.readouterr().err
    assert outcome(root / "digits/scan") == outcome(reference / "scan")


def test_a_finished_model_that_is_damaged_is_not_called_finished(root, capsys):
    flip(root / "digits/scan/model.pth.tar")
    assert stage("scan", root) == 1
    assert "model.pth.tar is not the file that was written there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"model": lambda old: {key: value[:1] for key, value in old.items() if value.ndim}},
        {"model": lambda old: dict(list(old.items())[1:])},
        {"model": lambda old: dict.fromkeys(old, 1)},
        {"optimizer": lambda old: {"state": {}, "param_groups": []}},
        {"optimizer": lambda old: {"state": []}},
        {"optimizer": lambda old: old | {"state": {10**6: {"exp_avg": torch.ones(2, 2)}}}},
        {"optimizer": lambda old: old | {"state": {0: {"exp_avg": torch.ones(2, 2)}}}},
        {"metrics": lambda old: "[1]"},
        {"metrics": lambda old: "{"},
        {"totals": lambda old: old | {"sums": {"loss": "high"}}},
        {"totals": lambda old: old | {"counts": {"confident": None}}},
    ],
    ids=range(11),
)
def test_a_checkpoint_that_does_not_fit_is_refused(root, killed, capsys, changes):
    """It is changed together with its record, as whoever can write the folder can."""
    state = torch.load(killed / checkpoint.NEWEST, weights_only=True)
    changed = {key: change(state[key]) for key, change in changes.items()}
    save_weights(killed / checkpoint.NEWEST, state | changed)
    assert stage("scan", root, "run_name=x") == 1
    said = capsys.readouterr().err
    assert "does not fit this run" in said and "overwrite=true" in said


# Numbers that go wrong


@pytest.mark.parametrize("kind", ["training", "validation"])
def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_what_was_good(reference, root, capsys, kind):
    """Step 5 is the second of epoch 2; with log_every=2 it is noticed after step 6, as that epoch's validation is."""
    step, improved, nan = Run.step, Run.improved, float("nan")
    with pytest.MonkeyPatch.context() as patch:
        if kind == "training":
            factor = {4: nan}
            patch.setattr(Run, "step", lambda run, loss, **more: step(run, loss * factor.get(run.num_steps, 1), **more))
        else:
            patch.setattr(Run, "improved", lambda run, loss: improved(run, nan if run.epoch == 1 else loss))
        assert stage("scan", root, "run_name=x") == 1
    folder = root / "digits/scan/x"
    newest = re.escape(str(folder / checkpoint.NEWEST))
    words = rf"no longer finite at epoch 2, step 3, learning rate 0\.\d+; the last good checkpoint is {newest}"
    assert re.search(words, capsys.readouterr().err)
    for path in folder.glob("*.pth.tar"):
        files.verify_file(path)
        assert all(torch.isfinite(value).all() for value in torch.load(path, weights_only=True)["model"].values())
    assert_ends_the_same(reference, root)


def test_weights_that_blow_up_between_two_looks_are_never_saved(root, capsys):
    """Without a look in between, the end of the epoch looks, before a model is chosen or saved."""
    assert stage("scan", root, "run_name=x", "optimizer_kwargs.lr=1e30", "log_every=1000") == 1
    assert "no longer finite at epoch 1, step 3" in capsys.readouterr().err
    assert not list((root / "digits/scan/x").glob("*.pth.tar"))


def test_an_epoch_without_a_confident_sample_says_where_they_would_appear(root, capsys):
    """Also when the highest confidence was seen before an interruption."""
    never = "confidence_threshold=1.0"
    assert stage("selflabel", root, "run_name=y", never) == 1
    said = capsys.readouterr().err
    assert "no sample was more confident than confidence_threshold=1.0 in epoch 1" in said
    assert interrupted("selflabel", root, "step", 3, stop, never) == 143
    capsys.readouterr()
    assert stage("selflabel", root, "run_name=x", never) == 1
    assert capsys.readouterr().err == said
    assert not list(root.glob("digits/selflabel/[xy]/model.pth.tar"))
    files.verify_file(root / "digits/scan/model.pth.tar")


def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(reference, root, capsys):
    def fill_the_disk(patch):
        patch.setattr(files.shutil, "disk_usage", lambda _: FULL)

    assert interrupted("scan", root, "step", 5, fill_the_disk) == 1
    assert "and 0.0 MiB are free there" in capsys.readouterr().err
    assert_ends_the_same(reference, root)
