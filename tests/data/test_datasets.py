"""Data sets of published form, each made small here: order, labels, and what damaged files lead to."""

import fcntl
import hashlib
import multiprocessing
import pickle
import socket
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from data import DATASETS
from data.cifar import read_pickle
from data.dataset import ImageDataset
from system.errors import ConfigError, UserError
from system.lock import locked


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def images_of(num, seed=0):
    return torch.randint(0, 256, (num, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def dataset_of(num=6, **kwargs):
    targets = torch.arange(num) % 3 - 1
    return ImageDataset("test", images_of(num), targets, ["a", "b"], [f"x/{i}" for i in range(num)], **kwargs)


# --- items


def test_an_item_is_a_dict_of_image_target_and_meta():
    dataset = dataset_of()
    item = dataset[2]
    assert item["image"].equal(images_of(6)[2])
    assert (item["target"], item["meta"]) == (1, {"index": 2, "class_name": "b", "im_size": (4, 5)})
    assert dataset[0]["target"] == -1
    assert dataset[0]["meta"]["class_name"] == "unlabeled"
    assert dataset[-1]["meta"]["index"] == 5
    with pytest.raises(IndexError):
        dataset[6]
    assert len(list(dataset)) == 6


def test_item_is_transformed_and_keeps_the_raw_size():
    dataset = dataset_of(transform=lambda image: image.float().mean((1, 2)))
    assert dataset[1]["image"].shape == (3,)
    assert dataset[1]["meta"]["im_size"] == (4, 5)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_plain_dataloader(num_workers):
    batches = list(DataLoader(dataset_of(), batch_size=4, num_workers=num_workers))
    assert torch.cat([batch["image"] for batch in batches]).equal(images_of(6))
    assert torch.cat([batch["target"] for batch in batches]).tolist() == [-1, 0, 1, -1, 0, 1]
    assert torch.cat([batch["meta"]["index"] for batch in batches]).tolist() == list(range(6))
    assert batches[0]["meta"]["class_name"] == ["unlabeled", "a", "b", "unlabeled"]


def test_load_gathers_in_order_with_repeats():
    dataset = dataset_of()
    assert dataset.load(torch.tensor([4, 0, 4]), "cpu").equal(images_of(6)[[4, 0, 4]])
    assert dataset.load(torch.tensor([], dtype=torch.int64), "cpu").shape == (0, 3, 4, 5)


def test_has_labels_and_num_classes():
    assert dataset_of().has_labels
    assert dataset_of().num_classes == 2
    assert not ImageDataset("test", images_of(2), torch.tensor([-1, -1]), [], ["0", "1"]).has_labels


def test_fingerprint_tells_content_order_and_shape():
    images = images_of(6)

    def fingerprint(images):
        return ImageDataset(
            "n", images, torch.zeros(len(images)), ["a"], list(map(str, range(len(images))))
        ).fingerprint()

    assert fingerprint(images) == fingerprint(images.clone()) == dataset_of().fingerprint()
    expected = hashlib.sha256(b"(6, 3, 4, 5)" + images.numpy().tobytes()).hexdigest()
    assert fingerprint(images) == expected
    assert fingerprint(images.to(memory_format=torch.channels_last)) == expected
    changed = images.clone()
    changed[3, 0, 0, 0] += 1
    others = [changed, images.flip(0), images[:5], images.transpose(2, 3), images.reshape(6, 3, 5, 4)]
    assert len({expected, *map(fingerprint, others)}) == 6


def test_dataset_refuses_what_does_not_fit_together():
    with pytest.raises(ValueError, match="targets"):
        ImageDataset("n", images_of(3), torch.zeros(2), [], ["0", "1", "2"])
    with pytest.raises(ValueError, match="images for"):
        ImageDataset("n", images_of(3), torch.zeros(2), [], ["0", "1"])
    with pytest.raises(ValueError, match="uint8"):
        ImageDataset("n", images_of(2).float(), torch.zeros(2), [], ["0", "1"])


# --- digits


def test_digits(tmp_path):
    train, val = (DATASETS["digits"](tmp_path, split, 16) for split in ("train", "val"))
    truth = load_digits()
    assert (train.images.shape, val.images.shape) == ((1437, 3, 16, 16), (360, 3, 16, 16))
    assert torch.cat([train.targets, val.targets]).tolist() == truth.target.tolist()
    assert train.classes == val.classes == [str(i) for i in range(10)]
    assert (train.paths[0], val.paths[0], len(set(train.paths + val.paths))) == ("digits/00000", "digits/01437", 1797)
    few = DATASETS["digits"](tmp_path, "val", 16, num_images=3)
    assert few.paths == val.paths[:3] and few.images.equal(val.images[:3]) and few.targets.equal(val.targets[:3])
    assert len(DATASETS["digits"](tmp_path, "val", 16, num_images=5000)) == 360
    level = Image.fromarray(np.round(truth.images[1500] / 16 * 255).astype(np.uint8)).resize((16, 16), Image.BICUBIC)
    for channel in val.images[1500 - 1437]:
        assert np.array_equal(channel.numpy(), np.asarray(level))


# --- CIFAR


def write_cifar10(root, num=3, protocol=2, **changes):
    """Images are numbered by their first pixel; labels are 0..9 round and round."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        data = np.random.default_rng(number).integers(0, 256, (num, 3072), dtype=np.uint8)
        data[:, 0] = number * num + np.arange(num)
        content = {"batch_label": name, "labels": [(number * num + i) % 10 for i in range(num)], "data": data}
        content["filenames"] = [f"{i}.png" for i in range(num)]
        (folder / name).write_bytes(pickle.dumps(content | changes, protocol=protocol))
    meta = {"label_names": [f"class{i}" for i in range(10)], "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=protocol))
    return folder


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_cifar10_batches_in_order(tmp_path, protocol):
    write_cifar10(tmp_path, protocol=protocol)
    train = DATASETS["cifar-10"](tmp_path, "train", 32)
    assert train.images.shape == (15, 3, 32, 32)
    assert train.images[:, 0, 0, 0].tolist() == list(range(15))
    assert train.targets.tolist() == [i % 10 for i in range(15)]
    assert train.classes[3] == "class3"
    (tmp_path / "cifar-10-batches-py/batches.meta").unlink()
    assert DATASETS["cifar-10"](tmp_path, "train", 32).classes == [str(number) for number in range(10)]
    assert (train.paths[0], train.paths[14]) == ("data_batch_1/00000", "data_batch_5/00002")
    val = DATASETS["cifar-10"](tmp_path / "cifar-10-batches-py", "val", 32)  # the batches' own directory works too
    expected = np.random.default_rng(5).integers(0, 256, (3, 3072), dtype=np.uint8)
    expected[:, 0] = [15, 16, 17]
    assert np.array_equal(val.images.numpy().reshape(3, -1), expected)


def test_cifar10_of_both_splits_has_the_test_batch_last(tmp_path):
    write_cifar10(tmp_path)
    for own in ("train", "val"):
        dataset = DATASETS["cifar-10"](tmp_path, own, 32, split="train+test")
        assert dataset.images[:, 0, 0, 0].tolist() == list(range(18))
        assert (dataset.paths[14], dataset.paths[15]) == ("data_batch_5/00002", "test_batch/00000")


def test_cifar_reads_python2_pickles(tmp_path):
    """The published files are Python 2's: byte strings instead of text, and NumPy's old module name."""
    raw = bytes(range(250, 256)) + bytes(6)
    file = b"".join(
        [
            b"\x80\x02}(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b",
            b"\x87R(K\x01K\x02K\x06\x86cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff",
            b"J\xff\xff\xff\xffK\x00tb\x89U\x0c" + raw + b"tbU\x06labels](K\x01K\x02eu.",
        ]
    )
    (tmp_path / "batch").write_bytes(file)
    content = read_pickle(tmp_path / "batch")
    assert content["labels"] == [1, 2]
    assert content["data"].value.tolist() == [[250, 251, 252, 253, 254, 255], [0] * 6]


def test_cifar20_uses_coarse_labels(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = [f"group{i}" for i in range(20)]
    (folder / "meta").write_bytes(
        pickle.dumps({"coarse_label_names": names, "fine_label_names": [str(i) for i in range(100)]})
    )
    for split, num in (("train", 4), ("test", 2)):
        content = {"data": np.zeros((num, 3072), np.uint8), "coarse_labels": [19] * num, "fine_labels": [99] * num}
        (folder / split).write_bytes(pickle.dumps(content))
    train, val = (DATASETS["cifar-20"](tmp_path, split, 32) for split in ("train", "val"))
    assert (len(train), len(val)) == (4, 2)
    assert train.classes == names
    assert set(train.targets.tolist()) == {19}
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))  # all that torchvision asks for
    assert DATASETS["cifar-20"](tmp_path, "val", 32).classes == [str(number) for number in range(20)]


def test_cifar_column_order_array(tmp_path):
    data = np.asfortranarray(np.arange(6 * 3072).reshape(6, 3072).astype(np.uint8))
    folder = write_cifar10(tmp_path, num=6, data=data)
    assert (folder / "test_batch").exists()
    val = DATASETS["cifar-10"](tmp_path, "val", 32)
    assert np.array_equal(val.images.numpy().reshape(6, -1), data)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("kind", [">i2", "<i8", "u1"])
def test_cifar_labels_may_be_numpys(tmp_path, protocol, kind):
    numbers = np.array([7, 0, 9], dtype=kind)
    for labels in (numbers, list(numbers)):
        write_cifar10(tmp_path, protocol=protocol, labels=labels)
        assert DATASETS["cifar-10"](tmp_path, "val", 32).targets.tolist() == [7, 0, 9]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": [0, 1]}, "2 labels"),
        ({"labels": [0, 1, 10]}, "numbers from 0 to 9"),
        ({"labels": [0, -1, 1]}, "numbers from 0 to 9"),
        ({"labels": [0, True, "x"]}, "numbers from 0 to 9"),
        ({"labels": None}, "no labels"),
        ({"data": np.zeros((3, 3071), np.uint8)}, "3071"),
        ({"data": np.zeros((3, 3, 32, 32), np.uint8)}, "3, 32, 32"),
        ({"data": np.zeros((3, 3072), np.float32)}, "type"),
        ({"data": np.array([[None] * 3072] * 3)}, "type"),
        ({"data": "text"}, "none"),
    ],
)
def test_cifar_with_wrong_content(tmp_path, changes, words):
    write_cifar10(tmp_path, **changes)
    with pytest.raises(UserError, match=words) as error:
        DATASETS["cifar-10"](tmp_path, "val", 32)
    assert "test_batch" in str(error.value)


class Evil:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def evil_pickles(marker):
    import builtins
    import os

    command = f"touch {marker}"
    return {
        "os.system": Evil(os.system, command),
        "eval": Evil(builtins.eval, f"open({str(marker)!r}, 'w')"),
        "in data": {"data": Evil(os.system, command), "labels": [1]},
        "numpy": Evil(np.fromfile, "/etc/passwd"),
        "getattr": Evil(builtins.getattr, "text", "upper"),
        "no dict": [1, 2],
    }


@pytest.mark.parametrize("name", ["os.system", "eval", "in data", "numpy", "getattr", "no dict"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_malicious_cifar_file_runs_nothing(tmp_path, name, protocol):
    folder = write_cifar10(tmp_path)
    marker = tmp_path / "executed"
    (folder / "test_batch").write_bytes(pickle.dumps(evil_pickles(marker)[name], protocol=protocol))
    with pytest.raises(UserError, match="is not a CIFAR file"):
        DATASETS["cifar-10"](tmp_path, "val", 32)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02",
        b"not a pickle",
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"cnumpy\ndtype\n}S'code'\nS'O'\nsb.",  # sets attributes of what it looked up
        b"cnumpy\nndarray\n)\x81}S'value'\nK\x01sb.",
        b"\x80\x02\x82\x01.",  # extension registry
        b"P1\n.",  # persistent id
    ],
)
def test_handmade_pickle_is_refused(tmp_path, content):
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(UserError, match="is not a CIFAR file"):
        read_pickle(tmp_path / "batch")


def test_every_truncation_of_a_cifar_file_is_noticed(tmp_path):
    folder = write_cifar10(tmp_path)
    whole = (folder / "test_batch").read_bytes()
    for end in range(0, len(whole), 997):
        (folder / "test_batch").write_bytes(whole[:end])
        with pytest.raises(UserError):
            DATASETS["cifar-10"](tmp_path, "val", 32)


# --- STL-10


def write_stl(root, counts=(4, 6, 5)):
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    (folder / "class_names.txt").write_text("\n".join(f"class{i}" for i in range(10)) + "\n")
    images = {}
    for number, (part, count) in enumerate(zip(("train", "unlabeled", "test"), counts, strict=True)):
        images[part] = np.random.default_rng(number).integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        images[part].transpose(0, 1, 3, 2).tofile(folder / f"{part}_X.bin")
        if part != "unlabeled":
            (1 + np.arange(count, dtype=np.uint8)).tofile(folder / f"{part}_y.bin")
    return folder, images


def test_stl_splits(tmp_path):
    folder, images = write_stl(tmp_path)
    train, both, val = (DATASETS["stl-10"](tmp_path, split, 96) for split in ("train", "train+unlabeled", "val"))
    assert np.array_equal(train.images.numpy(), images["train"])
    assert np.array_equal(both.images.numpy(), np.concatenate([images["train"], images["unlabeled"]]))
    assert np.array_equal(val.images.numpy(), images["test"])
    assert both.targets.tolist() == [0, 1, 2, 3] + [-1] * 6
    assert both[4]["meta"] == {"index": 4, "class_name": "unlabeled", "im_size": (96, 96)}
    assert both.paths[:4] == train.paths
    assert val.targets.tolist() == [0, 1, 2, 3, 4]
    assert val.classes[4] == "class4"
    assert np.array_equal(DATASETS["stl-10"](tmp_path, "unlabeled", 96).images.numpy(), images["unlabeled"])
    (folder / "class_names.txt").unlink()  # which torchvision does without, too
    assert DATASETS["stl-10"](tmp_path, "test", 96).classes[2] == "car"
    with pytest.raises(ConfigError, match="no split 'both'"):
        DATASETS["stl-10"](tmp_path, "both", 96)


@pytest.mark.parametrize(
    ("file", "num_bytes", "words"),
    [
        ("test_X.bin", 5 * 27648 - 1, "whole number"),
        ("test_X.bin", 0, "whole number"),
        ("test_X.bin", 4 * 27648, "5 bytes for 4 images"),
        ("test_y.bin", 4, "4 bytes for 5 images"),
    ],
)
def test_stl_sizes_are_checked(tmp_path, file, num_bytes, words):
    folder, _ = write_stl(tmp_path)
    (folder / file).write_bytes((folder / file).read_bytes()[:num_bytes])
    with pytest.raises(UserError, match=words):
        DATASETS["stl-10"](tmp_path, "val", 96)


def test_stl_labels_are_checked(tmp_path):
    folder, _ = write_stl(tmp_path)
    (folder / "test_y.bin").write_bytes(bytes([1, 2, 0, 4, 5]))
    with pytest.raises(UserError, match="outside 1 to 10"):
        DATASETS["stl-10"](tmp_path, "val", 96)


# --- downloads


@pytest.mark.parametrize("name", ["cifar-10", "cifar-20", "stl-10"])
def test_missing_data_without_network_is_one_sentence(tmp_path, name):
    with pytest.raises(UserError, match="cannot be downloaded") as error:
        DATASETS[name](tmp_path / "nowhere", "train", 32)
    assert "Name or service not known" in str(error.value)
    assert "env.yml" in str(error.value)
    assert "\n" not in str(error.value)
    assert socket.getdefaulttimeout() is None


def test_download_happens_only_when_files_are_missing(tmp_path, monkeypatch):
    import torchvision.datasets.utils as downloads

    calls = []

    def download(url, root, md5):
        calls.append((url, md5, socket.getdefaulttimeout()))

    monkeypatch.setattr(downloads, "download_url", download)
    monkeypatch.setattr(downloads, "extract_archive", lambda archive, folder: write_cifar10(Path(folder)))
    for _ in range(2):
        assert len(DATASETS["cifar-10"](tmp_path, "train", 32)) == 15
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert calls == [(url, "c58f30108f718f92721af3b95e74349a", 20.0)]


def test_root_option_overrides_the_directory(tmp_path):
    write_cifar10(tmp_path / "there")
    assert len(DATASETS["cifar-10"](tmp_path, "val", 32, root=str(tmp_path / "there"))) == 3


def test_lock_is_held_by_one_and_not_by_its_children(tmp_path):
    path = tmp_path / "deep" / "lock"

    def is_free():
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    with locked(path):
        assert not is_free()
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    free = any(is_free() or time.sleep(0.02) for _ in range(500))  # as soon as the child has come to life
    child.kill()
    child.join()
    assert free
