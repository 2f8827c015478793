"""The last two checkpoints are kept; what cannot be trusted is not used, and nothing in a file is executed."""

import errno
import os
import pickle
import random

import pytest
import torch

from models.weights import save_weights
from system import files
from system.errors import UserError
from training import checkpoint
from training.checkpoint import NEWEST, PREVIOUS


def state(epoch):
    """A run's state of a small model."""
    weights = torch.arange(6.0) + epoch
    return {
        **{"epoch": epoch, "step": 2, "num_steps": 10 * epoch, "seconds": 1.5, "values": {}, "metrics": "[]"},
        **{"totals": {"sums": {"loss": torch.tensor(1.0)}, "counts": {}, "maxima": {}}, "scaler": {}},
        **{"model": {"weight": weights}, "optimizer": {"state": {}, "param_groups": []}},
    }


def saved(folder, *epochs):
    for epoch in epochs:
        checkpoint.save(folder, state(epoch))
    return folder


def flip(path, place, bit=0):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def test_nothing_there(tmp_path):
    assert checkpoint.load(tmp_path) is None


def test_the_newest_is_loaded_as_it_was_saved(tmp_path):
    loaded = checkpoint.load(saved(tmp_path, 0, 1))
    assert loaded["epoch"] == 1
    assert torch.equal(loaded["model"]["weight"], torch.arange(6.0) + 1)
    assert {key: loaded[key] for key in ("step", "num_steps", "seconds", "metrics")} == {
        **{"step": 2, "num_steps": 10, "seconds": 1.5, "metrics": "[]"}
    }


def test_the_last_two_are_kept(tmp_path):
    saved(tmp_path, 0, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [PREVIOUS, NEWEST, files.MANIFEST]
    (tmp_path / NEWEST).unlink()
    assert checkpoint.load(tmp_path)["epoch"] == 2


def test_a_plain_torch_load_reads_model_files(tmp_path):
    save_weights(tmp_path / "model.pth.tar", {"a": torch.ones(3)}, setup="scan")
    assert torch.equal(torch.load(tmp_path / "model.pth.tar")["a"], torch.ones(3))
    assert files.verify_file(tmp_path / "model.pth.tar") == {"setup": "scan"}


def test_a_damaged_newest_one_falls_back_with_a_warning(tmp_path, capsys):
    moments = random.Random(0)
    size = (saved(tmp_path / "size", 0, 1) / NEWEST).stat().st_size
    for number in range(20):
        folder = saved(tmp_path / str(number), 0, 1)
        flip(folder / NEWEST, moments.randrange(size), moments.randrange(8))
        assert checkpoint.load(folder)["epoch"] == 0
        said = capsys.readouterr().err
        assert "checkpoint.pth.tar is not the file that was written" in said
        assert f"continuing from {PREVIOUS} (epoch 1, step 3)" in said
    for tenth in range(10):
        folder = saved(tmp_path / f"truncated{tenth}", 0, 1)
        os.truncate(folder / NEWEST, size * tenth // 10)
        assert checkpoint.load(folder)["epoch"] == 0


def test_a_damaged_one_never_takes_the_place_of_the_good_one(tmp_path, monkeypatch):
    """After falling back, the disk is full at the next save: the good one is still there."""
    saved(tmp_path, 0, 1)
    flip(tmp_path / NEWEST, 500)
    checkpoint.load(tmp_path)

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save(tmp_path, state(1))
    monkeypatch.undo()
    assert checkpoint.load(tmp_path)["epoch"] == 0
    saved(tmp_path, 1)
    assert checkpoint.load(tmp_path)["epoch"] == 1
    (tmp_path / NEWEST).unlink()
    assert checkpoint.load(tmp_path)["epoch"] == 0


def test_a_full_disk_leaves_both(tmp_path, monkeypatch):
    saved(tmp_path, 0, 1)

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match=r"No space left on device: it needs \d"):
        checkpoint.save(tmp_path, state(2))
    monkeypatch.undo()
    assert checkpoint.load(tmp_path)["epoch"] == 1
    flip(tmp_path / NEWEST, 500)
    assert checkpoint.load(tmp_path)["epoch"] == 0


def test_both_damaged_is_an_error(tmp_path):
    saved(tmp_path, 0, 1)
    for name in (NEWEST, PREVIOUS):
        flip(tmp_path / name, 500)
    with pytest.raises(UserError, match=r"checkpoint\.pth\.tar.*checkpoint-previous\.pth\.tar.*overwrite=true"):
        checkpoint.load(tmp_path)
    (tmp_path / PREVIOUS).unlink()
    with pytest.raises(UserError, match="no earlier checkpoint; overwrite=true"):
        checkpoint.load(tmp_path)


def test_a_published_checkpoint_is_not_taken_for_a_run(tmp_path):
    torch.save({"backbone.conv1.weight": torch.ones(3)}, tmp_path / NEWEST)
    with pytest.raises(UserError, match="not written by a run of this project; use it with --model"):
        checkpoint.load(tmp_path)
    assert (tmp_path / NEWEST).exists()


def test_without_a_manifest_it_is_used_with_a_word_and_checked_otherwise(tmp_path, capsys):
    saved(tmp_path, 0, 1)
    (tmp_path / files.MANIFEST).unlink()
    assert checkpoint.load(tmp_path)["epoch"] == 1
    assert "no recorded checksum" in capsys.readouterr().err
    data = (tmp_path / NEWEST).read_bytes()
    flip(tmp_path / NEWEST, data.index(torch.arange(1.0, 7.0).numpy().tobytes()) + 3)
    assert checkpoint.load(tmp_path)["epoch"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": "3"}, {"epoch": -1}, {"step": None}, {"step": torch.ones(2)}, {"metrics": []}, {"values": [1]},
        {"model": torch.ones(1)}, {"optimizer": None}, {"totals": 0}, {"seconds": "long"},
        {"format": 1}, {"format": "2"},
    ],
    ids=str,
)  # fmt: skip
def test_entries_of_another_type_are_refused(tmp_path, changes):
    """Even when the checksum is right, because whoever made the file made the record too."""
    checkpoint.save(tmp_path, state(1) | changes)
    with pytest.raises(UserError, match=r"is not usable|this version reads 2"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("content", [torch.ones(3), [1, 2], "text", {"epoch": 1}, {}], ids=str)
def test_contents_that_are_no_checkpoint(tmp_path, content):
    save_weights(tmp_path / NEWEST, content)
    with pytest.raises(UserError, match="not written by a run"):
        checkpoint.load(tmp_path)


class Evil:
    """A pickle that would leave a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_malicious_checkpoint_executes_nothing(tmp_path, form, recorded):
    evil = state(1) | {"values": {"x": Evil(tmp_path / "executed")}}

    def write(file):
        if form == "plain":
            pickle.dump(evil, file)
        else:
            torch.save(evil, file, _use_new_zipfile_serialization=form == "zip")

    files.write_file(tmp_path / NEWEST, write, record=recorded)
    with pytest.raises(UserError, match=r"refused|damaged"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_an_optimizers_state_of_another_shape():
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.Adam([parameter])
    good = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(2, 3)}}}
    checkpoint.check_optimizer(optimizer, good)
    with pytest.raises(ValueError, match="exp_avg of parameter 0"):
        checkpoint.check_optimizer(optimizer, {"state": {0: {"exp_avg": torch.ones(3, 2)}}})
