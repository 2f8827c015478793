"""Images that are decoded while training: the same pixels however many workers, and every stage end to end."""

import json
import os
import pickle
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from easydict import EasyDict
from PIL import Image

from clustering.features import Embedder
from data import loaders
from data.augment import Evaluation, build_augmentation
from data.folder import build as build_folder
from data.loaders import InferenceLoader, NeighborPartner, ViewLoader
from models import build_backbone
from models.models import ContrastiveModel
from system.errors import UserError
from system.files import REPOSITORY
from system.runtime import Runtime
from tests import processes
from tests.stage import FOLDERS, command
from utils.common_config import get_splits, get_val_dataset

NORMALIZE = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
COLORS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (210, 50, 40)}


def write_images(folder, names, num, seed=0):
    """`num` noisy JPEGs of a color each, of several sizes, in a directory for every name."""
    random = np.random.default_rng(seed)
    for name, color in zip(names, COLORS.values(), strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(num):
            height, width = random.integers(70, 110, 2)
            pixels = random.normal(color, 40, (height, width, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.JPEG", quality=90)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    write_images(root / "train", COLORS, 8)
    write_images(root / "val", COLORS, 4, seed=1)
    return root


def test_an_error_of_a_worker_is_the_sentence_alone(folder):
    dataset = build_folder(folder / "train", "train", 20, stream=True, resize=20)
    loader = ViewLoader(dataset, [Evaluation(32, NORMALIZE)], 8, Runtime.start("cpu", "fp32"), ("key",), num_workers=1)
    with pytest.raises(UserError, match=r"^an image of \d+ x \d+ pixels is too small for crop_size 32") as error:
        list(loader.epoch(0))
    assert str(error.value).endswith("bring the images to that size")


LEAVES_EARLY = """
import sys, time
from torch.utils.data import DataLoader
from data.files import pool

class Slow:
    def __getitem__(self, i):
        time.sleep(0.01 * i)
        return i

    def __len__(self):
        return 1000

items = pool.start(DataLoader(Slow(), batch_size=None, **pool.options(2)))
next(items)
sys.exit(3)
"""


@pytest.mark.slow
def test_workers_that_are_alive_at_the_end_are_ended_without_a_word():
    for _ in range(2):  # without care each has a traceback more often than not
        code, said = processes.finish(LEAVES_EARLY)
        assert code == 3 and "Traceback" not in said


@pytest.fixture(scope="module")
def dataset(folder):
    return build_folder(folder / "train", "train", 32, stream=True)


def test_both_splits_show_as_much_of_an_image(folder, tmp_path):
    """A split that is streamed and one that is not, of other numbers of images, would have another short side."""
    splits = {
        f"{split}_db_kwargs": {"root": str(folder / split), "stream": split == "train"} for split in ("train", "val")
    }
    p = EasyDict(splits, train_db_name="folder", val_db_name="folder", backbone="resnet8", setup="simclr")
    p.transformation_kwargs = {"crop_size": 35, "normalize": NORMALIZE}
    noted = {}
    train, val = get_splits(p, SimpleNamespace(note=noted.update))
    assert (train.resize, noted["images"]["side"]) == (40, 40)
    assert val.images.shape == (12, 3, 40, 40)
    p.val_db_kwargs.resize = 36
    assert get_val_dataset(p, reading=train.reading).images.shape == (12, 3, 36, 36)


@pytest.mark.parametrize("stream", [True, False])
def test_images_smaller_than_the_evaluation_crop_are_an_error_at_once(folder, tmp_path, stream, capsys):
    config = REPOSITORY / "configs/pretext/simclr_digits.yml"
    data = f"train_db_kwargs={{root: {folder / 'train'}, stream: {stream}, resize: 20}}"
    words = ["train_db_name=folder", "val_db_name=null", data, "transformation_kwargs.crop_size=32", "epochs=1"]
    assert command("simclr", "--config_exp", config, *words, f"root_dir={tmp_path}") == 1
    said = capsys.readouterr()
    assert "an image of 20 x 20 pixels is too small for crop_size 32" in said.err and "epoch" not in said.out


def views(size):
    return build_augmentation("standard", random_resized_crop={"size": size, "scale": [0.3, 1]}, normalize=NORMALIZE)


def two_sizes(dataset, num_workers=0):
    """Two views of an image and one of a partner, of two sizes."""
    partner = NeighborPartner(torch.arange(24).roll(1)[:, None].repeat(1, 2), 1)
    strategies = [Evaluation(32, NORMALIZE), views(24), views(32)]
    runtime = Runtime.start("cpu", "fp32")
    return ViewLoader(dataset, strategies, 6, runtime, (0, "test"), [None, None, partner], num_workers)


def same(found, expected):
    torch.testing.assert_close(list(found), list(expected), rtol=0, atol=0)


def test_views_do_not_depend_on_workers_or_where_one_begins(dataset, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    expected = list(two_sizes(dataset).epoch(3))
    assert [view.shape[-1] for view in expected[0].views] == [32, 24, 32]
    same(two_sizes(dataset, 2).epoch(3), expected)
    same(two_sizes(dataset).epoch(3, first_step=2), expected[2:])
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))  # a container with a small /dev/shm
    same(two_sizes(dataset, 2).epoch(3), expected)


def test_a_spawned_worker_makes_the_same_crops(dataset):
    loader = two_sizes(dataset)
    steps = loaders._Steps(loader, loader.order(0), 0)
    fresh = pickle.dumps(steps)
    list(loader.epoch(0))  # after a pass the strategies know their constants on the device, which is not sent along
    assert pickle.dumps(steps) == fresh
    sent = pickle.loads(fresh)
    for (crops, params), (expected, drawn) in zip(sent[1], steps[1], strict=True):
        assert torch.equal(crops, expected)
        assert params.keys() == drawn.keys()


def test_streamed_views_are_those_of_images_in_memory(tmp_path):
    for number, (height, width) in enumerate([(100, 80), (75, 120), (64, 64)]):
        rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        pixels = 255 * np.stack([rows, columns, (rows + columns) / 2], 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.jpg", quality=95)
    strategy, runtime = Evaluation(28, NORMALIZE), Runtime.start("cpu", "fp32")
    streamed, held = (build_folder(tmp_path, "train", 32, resize=32, stream=stream) for stream in (True, False))
    # In memory the square is cut first; of a square, the center crop is the same.
    found, expected = (torch.cat(list(InferenceLoader(data, strategy, 2, runtime))) for data in (streamed, held))
    assert (found - expected).abs().mean() < 2 / 255 / 0.225
    assert (found - expected).abs().max() < 8 / 255 / 0.225


def test_features_too_many_for_memory_are_mapped_from_a_file(dataset, tmp_path):
    torch.manual_seed(0)
    model = ContrastiveModel(build_backbone("resnet8", "cifar", 4), "mlp", 7).train()
    embedder = Embedder(Evaluation(32, NORMALIZE), Runtime.start("cpu", "fp32"), batch_size=5)
    held = embedder.embed(model, dataset)
    mapped = embedder.embed_to_file(tmp_path / "features.npy", model, dataset)
    assert isinstance(mapped, np.memmap)
    assert model.training
    np.testing.assert_array_equal(mapped, held.numpy())
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), held.numpy())
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".partial"] == []


CPU = ["device=cpu", "precision=fp32", "num_workers=1"]


@pytest.mark.slow
def test_all_stages_on_a_streamed_folder(folder, tmp_path):
    small = [
        "train_db_name=folder", "val_db_name=folder", "num_classes=3", "backbone=resnet8", "width=4", "stem=cifar_s2",
        f"train_db_kwargs={{root: {folder / 'train'}, stream: true}}", "epochs=1", "batch_size=12",
        f"val_db_kwargs={{root: {folder / 'val'}, stream: true}}", "num_neighbors=3", "db_alias=colors",
        "confidence_threshold=0.1", "num_mined_train=3", "num_mined_val=5", f"root_dir={tmp_path}",
    ]  # fmt: skip
    for script, kind in FOLDERS.items():
        config = REPOSITORY / f"configs/{kind}/{script}_cifar10.yml"
        assert command(script, "--config_exp", config, *CPU, *small) == 0
    record = json.loads((tmp_path / "colors/selflabel/run.json").read_text())
    assert record["status"] == "finished"
    assert 0 < record["result"]["acc"] <= 1


# ImageNet's layout, the released MoCo form, heads alone

WNIDS = ["n01000001", "n01000002", "n01000003"]


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    for split, num in (("train", 6), ("val", 3)):
        write_images(root / f"ILSVRC2012_img_{split}", WNIDS, num)
    (root / "list.txt").write_text("".join(f"{wnid} {name}\n" for wnid, name in zip(WNIDS, COLORS, strict=True)))
    torch.manual_seed(0)
    state = ContrastiveModel(build_backbone("resnet18", "imagenet"), "mlp", 128).state_dict()
    names = {"backbone.": "module.encoder_q.", "contrastive_head.": "module.encoder_q.fc."}
    released = {}
    for key, value in state.items():
        old = next(name for name in names if key.startswith(name))
        released[names[old] + key.removeprefix(old)] = value
    released["module.queue"] = torch.zeros(128, 4)
    torch.save({"state_dict": released, "epoch": 800, "arch": "resnet18"}, root / "moco.pth.tar")
    return root


def on_imagenet(root, results, *words):
    kwargs = f"{{root: {root}, subset_file: {root / 'list.txt'}, resize: 72}}"
    return [
        *words, *CPU, f"train_db_kwargs={kwargs}", f"val_db_kwargs={kwargs}", "num_classes=3", f"root_dir={results}",
        "backbone=resnet18", "transformation_kwargs.crop_size=64", "num_mined_train=4", "num_mined_val=5",
    ]  # fmt: skip


HEADS = ["--config_exp", REPOSITORY / "configs/scan/scan_imagenet_50.yml"]
HEADS += ["num_neighbors=4", "batch_size=6", "epochs=1"]
MOCO = ["--config_exp", REPOSITORY / "configs/pretext/moco_imagenet50.yml"]


@pytest.fixture(scope="module")
def mined(imagenet, tmp_path_factory):
    """Neighbors by MoCo weights, with features that are mapped from their file."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        real = os.sysconf
        patch.setattr(os, "sysconf", lambda name: 0 if name == "SC_AVPHYS_PAGES" else real(name))  # no memory is free
        assert command("moco", *on_imagenet(imagenet, results, *MOCO, "--model", imagenet / "moco.pth.tar")) == 0
    return results


@pytest.mark.slow
def test_moco_mines_backbone_features(mined):
    folder = mined / "imagenet_50" / "pretext"
    neighbors = np.load(folder / "topk-train-neighbors.npy")
    features = torch.from_numpy(np.load(folder / "features-train.npy"))
    assert features.shape == (18, 512)
    similarity = torch.nn.functional.normalize(features.double(), dim=1)
    similarity = similarity @ similarity.T
    similarity.fill_diagonal_(2)
    np.testing.assert_array_equal(neighbors, similarity.topk(5).indices.numpy())


@pytest.mark.slow
def test_ten_heads_on_a_frozen_backbone(mined, imagenet):
    crop = "augmentation_kwargs.random_resized_crop.size=64"
    assert command("scan", *on_imagenet(imagenet, mined, *HEADS, crop)) == 0
    saved = torch.load(mined / "imagenet_50/scan/model.pth.tar")
    pretext = torch.load(mined / "imagenet_50/pretext/model.pth.tar")
    assert sum(key.endswith("weight") and key.startswith("cluster_head") for key in saved["model"]) == 10
    for key, value in pretext.items():
        if key.startswith("backbone."):
            assert torch.equal(saved["model"][key], value), key


@pytest.mark.slow
def test_fixed_views_give_the_same_heads_from_features_computed_once(mined, imagenet, monkeypatch):
    fixed = ["augmentation_strategy=evaluation", f"augmentation_kwargs={{crop_size: 64, normalize: {NORMALIZE}}}"]
    once = on_imagenet(imagenet, mined, *HEADS, "run_name=once", *fixed)
    each = on_imagenet(imagenet, mined, *HEADS, "run_name=each", *fixed)
    assert command("scan", *once) == 0
    monkeypatch.setattr(Evaluation, "is_fixed", False)
    assert command("scan", *each) == 0
    found, expected = (torch.load(mined / f"imagenet_50/scan/{name}/model.pth.tar") for name in ("once", "each"))
    assert found["head"] == expected["head"]
    torch.testing.assert_close(found["model"], expected["model"], rtol=1e-3, atol=1e-4)


def test_a_missing_list_and_missing_weights_are_told(imagenet, tmp_path, capsys):
    words = [*MOCO, *CPU, f"root_dir={tmp_path}", f"train_db_kwargs={{root: {imagenet}}}", "backbone=resnet18"]
    assert command("moco", *words, "--model", imagenet / "moco.pth.tar") == 1
    assert "the list of imagenet_50's classes is missing" in capsys.readouterr().err
    assert command("moco", *words) == 1
    assert "wget https://dl.fbaipublicfiles.com/moco" in capsys.readouterr().err
