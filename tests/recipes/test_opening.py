"""What is read of the words before a clustering begins."""

import hashlib

import pytest

from recipes.features import Features, identity
from recipes.opening import with_weights
from system.errors import ConfigError


def test_the_last_weights_count_and_only_of_a_pretrained_network():
    network = Features("efficientnet_lite0", "as asked")
    assert with_weights(network, ["seed=1", "model_kwargs.weights=3"]).weights is None
    assert with_weights(network, ["pretrained.weights=a.pth", "weights='b c.pth'"]).weights == "b c.pth"
    assert with_weights(network, ["weights=a.pth", "weights=null"]).weights is None
    for name in ("scratch", "given/8"):
        with pytest.raises(ConfigError, match=f"pretrained network, and these features are {name}; leave it out"):
            with_weights(Features(name, "as asked"), ["weights=a.pth"])


def test_features_in_the_home_directory_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.npy").write_bytes(b"rows")
    assert identity("~/own.npy") == f"a file of SHA-256 {hashlib.sha256(b'rows').hexdigest()}"
