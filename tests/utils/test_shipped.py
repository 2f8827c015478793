"""Shipped configs: they hold the published figures, build what they name, and are the same runs as configs in full."""

import pytest
import torch
import yaml

from models.pretrained import is_pretrained
from system.files import REPOSITORY
from tests import published
from training.comparison import differing_keys, to_plain
from utils.common_config import (
    get_criterion,
    get_model,
    get_optimizer,
    get_train_transformations,
    get_val_transformations,
)  # fmt: skip
from utils.config import load_config
from utils.setups import SETUPS
from utils.stage import KEYS

CONFIGS = REPOSITORY / "configs"
SHIPPED = sorted(path for path in CONFIGS.glob("*/*.yml") if path.parent.name not in ("datasets", "shared"))
ROOT = "train_db_kwargs.root=train"

# Section 6 of the paper's published recipes, written here by hand.
CIFAR10 = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}
CIFAR100 = {"mean": [0.5071, 0.4867, 0.4408], "std": [0.2675, 0.2565, 0.2761]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
MLP = {"head": "mlp", "features_dim": 128}
ADAM = {
    "optimizer": "adam", "optimizer_kwargs": {"lr": 1e-4, "weight_decay": 1e-4}, "scheduler": "constant",
    "scheduler_kwargs": {}, "num_heads": 1,
}  # fmt: skip


def small(name, classes, size, normalize):
    return {
        "train_db_name": name, "val_db_name": name, "num_classes": classes, "backbone": "resnet18",
        "transformation_kwargs": {"crop_size": size, "normalize": normalize},
    }  # fmt: skip


def imagenet(classes):
    name = f"imagenet_{classes}" if classes < 1000 else "imagenet"
    return {**small(name, classes, 224, IMAGENET), "backbone": "resnet50"}


def weak(size, normalize):
    return {
        "augmentation_strategy": "simclr",
        "augmentation_kwargs": {
            "random_resized_crop": {"size": size, "scale": [0.2, 1]},
            "color_jitter_random_apply": {"p": 0.8},
            "color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
            "random_grayscale": {"p": 0.2},
            "normalize": normalize,
        },
    }


def strong(size, normalize, cutout):
    return {
        "augmentation_strategy": "ours",
        "augmentation_kwargs": {
            "crop_size": size, "normalize": normalize, "num_strong_augs": 4,
            "cutout_kwargs": {"n_holes": 1, "length": cutout, "random": True},
        },
    }  # fmt: skip


def simclr(*facts):
    sgd = {"lr": 0.4, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False}
    return {
        "setup": "simclr", **small(*facts), **weak(*facts[2:]), "model_kwargs": MLP, "criterion": "simclr",
        "criterion_kwargs": {"temperature": 0.1}, "epochs": 500, "batch_size": 512, "optimizer": "sgd",
        "optimizer_kwargs": sgd, "scheduler": "cosine", "scheduler_kwargs": {"lr_decay_rate": 0.1},
    }  # fmt: skip


def scan(*facts, cutout, epochs, batch_size):
    return {
        "setup": "scan", **small(*facts), **strong(*facts[2:], cutout), **ADAM, "num_neighbors": 20,
        "criterion": "scan", "criterion_kwargs": {"entropy_weight": 5}, "update_cluster_head_only": False,
        "epochs": epochs, "batch_size": batch_size,
    }  # fmt: skip


def selflabel(*facts, cutout, epochs):
    return {
        "setup": "selflabel", **small(*facts), **strong(*facts[2:], cutout), **ADAM, "use_ema": False,
        "criterion": "confidence-cross-entropy", "criterion_kwargs": {"apply_class_balancing": True},
        "confidence_threshold": 0.99, "epochs": epochs, "batch_size": 1000,
    }  # fmt: skip


def moco(classes):
    return {"setup": "moco", **imagenet(classes), "model_kwargs": MLP, "batch_size": 256, "temperature": 0.07}


def scan_imagenet(classes, batch_size):
    sgd = {"lr": 5, "momentum": 0.9, "weight_decay": 0, "nesterov": False}
    return {
        "setup": "scan", **imagenet(classes), **weak(224, IMAGENET), "num_heads": 10, "num_neighbors": 50,
        "update_cluster_head_only": True, "criterion": "scan", "criterion_kwargs": {"entropy_weight": 5},
        "optimizer": "sgd", "optimizer_kwargs": sgd, "scheduler": "constant", "epochs": 100, "batch_size": batch_size,
    }  # fmt: skip


def selflabel_imagenet(classes):
    sgd = {"lr": 0.03, "momentum": 0.9, "weight_decay": 0, "nesterov": False}
    return {
        "setup": "selflabel", **imagenet(classes), **strong(224, IMAGENET, 75), "confidence_threshold": 0.99,
        "criterion": "confidence-cross-entropy", "criterion_kwargs": {"apply_class_balancing": False}, "num_heads": 1,
        "use_ema": True, "ema_alpha": 0.999, "optimizer": "sgd", "optimizer_kwargs": sgd, "scheduler": "constant",
        "epochs": 25, "batch_size": 512,
    }  # fmt: skip


FACTS = {
    "cifar10": ("cifar-10", 10, 32, CIFAR10),
    "cifar20": ("cifar-20", 20, 32, CIFAR100),
    "stl10": ("stl-10", 10, 96, IMAGENET),
}
RECIPES = {
    **{f"pretext/simclr_{name}": simclr(*facts) for name, facts in FACTS.items()},
    **{f"pretext/moco_imagenet{classes}": moco(classes) for classes in (50, 100, 200)},
    "scan/scan_cifar10": scan(*FACTS["cifar10"], cutout=16, epochs=50, batch_size=128),
    "scan/scan_cifar20": scan(*FACTS["cifar20"], cutout=16, epochs=100, batch_size=512),
    "scan/scan_stl10": scan(*FACTS["stl10"], cutout=32, epochs=100, batch_size=128),
    "scan/scan_imagenet_50": scan_imagenet(50, 512),
    "scan/scan_imagenet_100": scan_imagenet(100, 1024),
    "scan/scan_imagenet_200": scan_imagenet(200, 1024),
    "scan/imagenet_eval": {
        "setup": "scan", **imagenet(1000), "num_heads": 10, "epochs": None, "batch_size": None, "optimizer": None,
        "criterion": None, "augmentation_strategy": None, "augmentation_kwargs": {},
    },
    "selflabel/selflabel_cifar10": selflabel(*FACTS["cifar10"], cutout=16, epochs=200),
    "selflabel/selflabel_cifar20": selflabel(*FACTS["cifar20"], cutout=16, epochs=200),
    "selflabel/selflabel_stl10": selflabel(*FACTS["stl10"], cutout=32, epochs=100),
    **{f"selflabel/selflabel_imagenet_{classes}": selflabel_imagenet(classes) for classes in (50, 100, 200)},
}  # fmt: skip


def load(name, *words):
    return load_config(CONFIGS / "env.yml", CONFIGS / f"{name}.yml", words)


@pytest.mark.parametrize("name", RECIPES)
def test_published_recipes(name):
    p = to_plain(load(name))
    assert {key: p[key] for key in RECIPES[name]} == RECIPES[name]


@pytest.mark.parametrize("stage", ["pretext/simclr", "scan/scan", "selflabel/selflabel"])
def test_cifar10_as_files_of_images_follows_the_published_recipe(stage):
    """But for where the images come from, and how often it looks up from training."""
    expected = RECIPES[f"{stage}_cifar10"] | {"train_db_name": "folder", "val_db_name": "folder"}
    p = to_plain(load(f"{stage}_cifar10_jpeg", ROOT))
    assert {key: p[key] for key in expected} == expected
    assert p["db_alias"] == "cifar10_jpeg"


@pytest.mark.parametrize("stage", ["pretext/simclr", "scan/scan", "selflabel/selflabel"])
@pytest.mark.parametrize("suffix", ["cifar10_cpu", "cifar10_fast", "cifar10_jpeg", "imagenette", "digits", "mnist"])
def test_the_stages_of_a_recipe_fit_together(stage, suffix):
    """The same data, network and evaluation transform, and each stage starts from the run before it."""
    words = [] if suffix == "digits" else [ROOT]
    p, first = load(f"{stage}_{suffix}", *words), load(f"pretext/simclr_{suffix}", *words)
    for key in ("train_db_name", "val_db_name", "db_alias", "num_classes", "backbone", "stem", "width"):
        assert p[key] == first[key], key
    assert p.transformation_kwargs == first.transformation_kwargs
    assert p.pretext_dir == first.pretext_dir
    if p.setup == "selflabel":
        assert p.scan_dir == load(f"scan/scan_{suffix}", *words).scan_dir


@pytest.mark.parametrize("content", [published.SIMCLR, published.SCAN, published.SELFLABEL], ids=lambda c: c["setup"])
def test_a_run_of_a_published_yaml_in_full_is_that_of_the_shipped_config(content, tmp_path):
    """Also as earlier versions wrote it into the run's folder: with options that its data set does not take."""
    full = to_plain(load_config(published.write_env(tmp_path), published.write_config(tmp_path, content)))
    setup = content["setup"]
    shipped = to_plain(load(f"{SETUPS[setup].stage}/{setup}_cifar10"))
    assert differing_keys(full, shipped, KEYS) == []
    assert differing_keys(full, shipped | {"seed": 1, "epochs": 3}, KEYS) == ["epochs", "seed"]
    for split in ("train", "val"):
        full[f"{split}_db_kwargs"] = {
            "root": None, "stream": "auto", "resize": None, "on_bad_image": "error", "cache_dir": None,
            "subset_file": None,
        }  # fmt: skip
    assert differing_keys(yaml.safe_load(yaml.safe_dump(full)), shipped, KEYS) == []


def test_a_data_set_without_options_is_the_same_as_with_earlier_versions_of_them():
    old = to_plain(load("scan/scan_digits"))
    new = {**old, "train_db_kwargs": {}}
    old["train_db_kwargs"] = {"root": None, "stream": "auto", "resize": None, "on_bad_image": "error"}
    assert differing_keys(old, new, KEYS) == []
    cifar = to_plain(load("scan/scan_cifar10"))
    assert differing_keys(cifar | {"train_db_kwargs": {"root": None}}, cifar, KEYS) == []  # before there was `split`
    old["train_db_kwargs"]["root"] = "elsewhere"
    assert differing_keys(old, new, KEYS) == ["train_db_kwargs.root"]


@pytest.mark.parametrize("data", ["digits", "cifar10", "cifar10_cpu", "mnist"])
def test_every_method_comes_with_every_data_set(data):
    """Pretext tasks keep to a run of their own name, on which scan.py goes on with pretext_run=NAME."""
    folders = dict.fromkeys(("rotnet", "instdisc", "byol", "supervised", "pretrained"), "pretext")
    for name, folder in (folders | dict.fromkeys(("iic", "ucc", "kmeans"), "methods")).items():
        p = load(f"{folder}/{name}_{data}", ROOT if data == "cifar10_cpu" else "seed=0")
        assert p.setup == name
        if folder == "pretext":
            assert p.run_name == name
            if name != "pretrained":  # which has a network of its own
                scan = load(f"scan/scan_{data}", ROOT if data == "cifar10_cpu" else "seed=0", f"pretext_run={name}")
                assert scan.pretext_dir == p.pretext_dir
                assert (scan.backbone, scan.stem, scan.width) == (p.backbone, p.stem, p.width)


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_iic_is_trained_and_scored_on_all_images(data):
    p = load(f"methods/iic_{data}")
    assert p.train_db_kwargs.split == "train+test"
    assert p.val_db_name is None, "the validation split is the training split"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_builds_what_it_names(path, tmp_path):
    words = [] if "digits" in path.stem else [ROOT]
    p = load_config(None, path, [f"root_dir={tmp_path}", *words])
    get_val_transformations(p)
    if p.criterion:
        get_criterion(p)
    if p.augmentation_strategy:
        get_train_transformations(p)
    with torch.device("cpu" if is_pretrained(p.backbone) else "meta"):  # on meta no weights are drawn
        model = get_model(p)
    if p.optimizer:
        assert get_optimizer(p, model).param_groups[0]["lr"] == p.optimizer_kwargs.lr
    assert not list(tmp_path.iterdir()), "reading a config writes nothing"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_opens_with_a_command_that_launches_it(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    opening = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    commands = [line for line in opening if line.startswith("#   python ")]
    assert len(commands) == 1
    words = commands[0].split()
    named = REPOSITORY / words[words.index("--config_exp") + 1]
    script = words[3].replace(".", "/") + ".py" if words[2] == "-m" else words[2]
    assert (REPOSITORY / script).is_file()
    if path in SHIPPED:
        assert named == path
    else:  # it is a base of what is launched
        assert any((named.parent / base).resolve() == path for base in bases(named))


def bases(path):
    base = yaml.safe_load(path.read_text(encoding="utf-8")).get("base", [])
    return base if isinstance(base, list) else [base]


def test_every_data_set_and_recipe_is_a_base_of_something():
    used = {(path.parent / base).resolve() for path in SHIPPED for base in bases(path)}
    assert used == set(CONFIGS.glob("datasets/*.yml")) | set(CONFIGS.glob("shared/*.yml"))
