"""What is read of the words before a clustering begins."""

import hashlib

import pytest
import torch

from recipes import estimate
from recipes.features import Features, identity
from recipes.opening import with_weights
from recipes.words import take_overwrite
from system.errors import ConfigError
from system.files import REPOSITORY
from system.runtime import Runtime
from utils.config import load_config


def test_the_last_weights_count_and_only_of_a_pretrained_network():
    network = Features("efficientnet_lite0", "as asked")
    assert with_weights(network, ["seed=1", "model_kwargs.weights=3"]).weights is None
    assert with_weights(network, ["pretrained.weights=a.pth", "weights='b c.pth'"]).weights == "b c.pth"
    assert with_weights(network, ["weights=a.pth", "weights=null"]).weights is None
    for name in ("scratch", "given/8"):
        with pytest.raises(ConfigError, match=f"pretrained network, and these features are {name}; leave it out"):
            with_weights(Features(name, "as asked"), ["weights=a.pth"])


def test_steps_are_timed_in_a_part_of_a_batch_where_memory_is_full(monkeypatch):
    tried = []

    def time_step(p, model, runtime):
        tried.append(p.batch_size)
        if p.batch_size > 32:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return 8.0

    monkeypatch.setattr(estimate, "time_step", time_step)
    p = load_config(None, REPOSITORY / "configs/pretext/simclr_digits.yml", ["batch_size=256"])
    assert estimate.time_image(p, Runtime.start("cpu")) == 8 / 32 and tried == [256, 128, 64, 32]


def test_features_in_the_home_directory_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.npy").write_bytes(b"rows")
    assert identity("~/own.npy") == f"a file of SHA-256 {hashlib.sha256(b'rows').hexdigest()}"


def test_minutes_are_an_option_not_a_word():
    with pytest.raises(ConfigError, match=r"minutes is set by cluster\.py itself; leave it out .*--minutes"):
        take_overwrite(["seed=1", "simclr.minutes=20"])
