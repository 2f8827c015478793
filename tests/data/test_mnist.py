"""MNIST's idx files, plain and packed: what is read of them, and what damaged ones lead to."""

import gzip
import struct

import numpy as np
import pytest
import torch

from data import DATASETS, download
from data.made_up import make_up
from data.mnist import FOLDER, MD5, read_idx
from system.errors import UserError
from tests.system.test_bounded import sentence

NUM = {"train": 7, "t10k": 3}


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def arrays(part):
    random = np.random.default_rng(NUM[part])
    return random.integers(0, 256, (NUM[part], 28, 28), np.uint8), random.integers(0, 10, NUM[part], np.uint8)


def lay_out(root, packed=(), folder=FOLDER):
    place = root / folder
    place.mkdir(parents=True, exist_ok=True)
    for part in NUM:
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays(part), strict=True):
            name = f"{part}-{kind}-ubyte"
            if kind in packed:
                (place / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (place / name).write_bytes(idx(array))
    return place


@pytest.mark.parametrize("packed", [(), ("images-idx3",), ("images-idx3", "labels-idx1")])
@pytest.mark.parametrize("folder", [FOLDER, "."])
def test_images_and_labels_are_those_of_the_files(tmp_path, packed, folder):
    lay_out(tmp_path, packed, folder)
    for split, part in (("train", "train"), ("val", "t10k")):
        dataset = DATASETS["mnist"](tmp_path, split, 99)
        images, labels = arrays(part)
        assert dataset.images.shape == (NUM[part], 3, 28, 28)
        assert all(np.array_equal(dataset.images[:, channel], images) for channel in range(3))
        assert dataset.targets.tolist() == labels.tolist()
        assert dataset.classes == list("0123456789")
        loaded = dataset.load(torch.tensor([2, 0]), "cpu")
        assert loaded.is_contiguous()
        assert np.array_equal(loaded[0, 1], images[2])


@pytest.mark.parametrize("own", ["train", "val"])
def test_both_splits_are_one_data_set_if_wanted(tmp_path, own):
    lay_out(tmp_path, ("labels-idx1",))
    dataset = DATASETS["mnist"](tmp_path, own, 28, split="train+test")
    images, labels = (np.concatenate(both) for both in zip(arrays("train"), arrays("t10k"), strict=True))
    assert np.array_equal(dataset.images[:, 2], images)
    assert dataset.targets.tolist() == labels.tolist()
    assert (dataset.paths[6], dataset.paths[7], len(dataset)) == ("train/00006", "t10k/00000", 10)


def test_a_plain_file_and_its_packed_copy_are_the_same_data_set(tmp_path):
    lay_out(tmp_path / "plain")
    lay_out(tmp_path / "packed", ("images-idx3", "labels-idx1"))
    plain, packed = (DATASETS["mnist"](tmp_path / name, "val", 28) for name in ("plain", "packed"))
    assert plain.fingerprint() == packed.fingerprint()


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
HUGE = struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 28, 28)
DAMAGED = {
    "no bytes": (IMAGES, b"", "empty"),
    "another header": (IMAGES, b"\0\0\x0d\3" + bytes(12), "no idx file"),
    "a web page": (IMAGES, b"<!DOCTYPE html><html>" + bytes(30), "a web page"),
    "labels for images": (IMAGES, idx(arrays("t10k")[1]), "no idx file"),
    "a header of more than there can be": (IMAGES, HUGE + bytes(100), "promises 4,294,967,295x28x28"),
    "cut off": (IMAGES, idx(arrays("t10k")[0])[:-5], "promises"),
    "too long": (IMAGES, idx(arrays("t10k")[0]) + b"x", "more bytes"),
    "another side": (IMAGES, idx(np.zeros((3, 27, 28), np.uint8)), "28x27"),
    "fewer labels": (LABELS, idx(np.zeros(2, np.uint8)), "2 labels for 3 images"),
    "a label above 9": (LABELS, idx(np.array([1, 10, 3], np.uint8)), "the label 10"),
    "no labels": (LABELS, idx(np.zeros(0, np.uint8)), "promises 0"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_told_in_one_sentence(tmp_path, name, packed):
    file, content, words = DAMAGED[name]
    place = lay_out(tmp_path)
    if packed:
        (place / file).unlink()
        file, content = f"{file}.gz", gzip.compress(content)
        words = {"cut off": "fewer bytes", "no bytes": "no idx file", "a web page": "no idx file"}.get(name, words)
    (place / file).write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        DATASETS["mnist"](tmp_path, "val", 28)
    assert str(place / file) in str(error.value)
    assert "download it again" in str(error.value)


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:60] + b"\xff" * 40 + data[100:]])
def test_a_damaged_archive_is_told(tmp_path, damage):
    path = tmp_path / "x.gz"
    path.write_bytes(damage(gzip.compress(idx(arrays("t10k")[0]))))
    with pytest.raises(UserError, match=r"x\.gz"):
        read_idx(path, 3)


def test_a_header_that_lies_allocates_nothing(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, 2**20, 2**10, 2**10) + bytes(1000)))
    assert "cannot hold" in sentence(read_idx, path, 3)


def test_what_is_missing_alone_is_downloaded(tmp_path, monkeypatch):
    import torchvision.datasets.utils as downloads

    place = lay_out(tmp_path)
    saved = (place / LABELS).read_bytes()
    (place / LABELS).unlink()
    asked = []

    def download(url, root, md5):
        asked.append((url.rpartition("/")[2], root, md5))
        (place / f"{LABELS}.gz").write_bytes(gzip.compress(saved))

    monkeypatch.setattr(downloads, "download_url", download)
    for _ in range(2):
        assert len(DATASETS["mnist"](tmp_path, "val", 28)) == NUM["t10k"]
    assert asked == [(f"{LABELS}.gz", str(place), MD5[f"{LABELS}.gz"])]


def test_what_cannot_be_downloaded_is_told(tmp_path, monkeypatch):
    import torchvision.datasets.utils as downloads

    def refuse(*_, **__):
        raise OSError("timed out")

    monkeypatch.setattr(downloads, "download_url", refuse)
    with pytest.raises(UserError, match=r"MNIST/raw/train-images-idx3-ubyte.*timed out.*data_paths\.mnist"):
        DATASETS["mnist"](tmp_path, "train", 28)
    with download.no_downloads(), pytest.raises(download.NotHereError):
        DATASETS["mnist"](tmp_path, "train", 28)


def test_a_dry_run_makes_up_images_of_its_shape():
    made = make_up("mnist", "val")
    assert made.images.shape == (10_000, 3, 28, 28)
    assert made.num_classes == 10
