"""A dry run of a stage downloads nothing and writes nothing."""

import numpy as np
import pytest
import torch
from PIL import Image

from clustering.neighbors import save_neighbors
from models.models import ContrastiveModel
from models.resnet_cifar import resnet8
from tests import published
from tests.stage import command
from utils.config import REPOSITORY

pytestmark = pytest.mark.usefixtures("signals")
WORDS = ["width=4", "num_workers=0", "batch_size=4", "precision=fp32"]


def everything(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


@pytest.fixture
def photos(tmp_path):
    """A folder of twelve images, a model and neighbors of it; returns the words that name them."""
    (tmp_path / "photos").mkdir()
    for i in range(12):
        Image.fromarray(np.full((16, 16, 3), 20 * i, dtype=np.uint8)).save(tmp_path / "photos" / f"{i:02d}.png")
    published.write_env(tmp_path)
    names = ["train_db_name=folder", "val_db_name=null", f"train_db_kwargs.root={tmp_path / 'photos'}"]
    return [*names, f"train_db_kwargs.cache_dir={tmp_path / 'cache'}", "train_db_kwargs.stream=false"]


def test_no_cache_is_written(tmp_path, photos, capsys):
    before = everything(tmp_path)
    config = REPOSITORY / "configs/pretext/simclr_digits.yml"
    words = ["--config_env", tmp_path / "env.yml", "--config_exp", config, "--dry_run", *photos, *WORDS]
    assert command("simclr", *words, "num_mined_train=5") == 0
    assert "a dry run writes no cache" in capsys.readouterr().out
    assert everything(tmp_path) == before


def test_features_of_a_frozen_backbone_are_not_computed(tmp_path, photos, capsys, monkeypatch):
    folder = tmp_path / "results" / "photos" / "pretext"
    folder.mkdir(parents=True)
    torch.save(ContrastiveModel(resnet8(width=4, stem="cifar_s2")).state_dict(), folder / "model.pth.tar")
    indices = (np.arange(12)[:, None] + np.arange(6)) % 12
    for split in ("train", "val"):
        save_neighbors(folder / f"topk-{split}-neighbors.npy", indices, None)
    (folder / "manifest.json").unlink()
    monkeypatch.setattr("clustering.features.Embedder.embed", lambda *_, **__: pytest.fail("all features"))
    before = everything(tmp_path)
    config = REPOSITORY / "configs/scan/scan_digits.yml"
    more = [
        "augmentation_strategy=evaluation",
        "update_cluster_head_only=true",
        "num_neighbors=5",
        f"root_dir={tmp_path}/results",
    ]
    normalize = "{mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}"
    more += [f"root_dir={tmp_path}/results", f"augmentation_kwargs={{crop_size: 16, normalize: {normalize}}}"]
    words = ["--config_env", tmp_path / "env.yml", "--config_exp", config, "--dry_run", *photos, *WORDS, *more]
    assert command("scan", *words) == 0
    assert "about" in capsys.readouterr().out
    assert everything(tmp_path) == before


def test_mining_has_no_dry_run(tmp_path, capsys):
    published.write_env(tmp_path)
    config = REPOSITORY / "configs/pretext/simclr_digits.yml"
    words = ["--config_env", tmp_path / "env.yml", "--config_exp", config, "--dry_run", "--mine_only"]
    assert command("simclr", *words) == 2
    assert "leave one of them out" in capsys.readouterr().err
