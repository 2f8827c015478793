"""The tables that a config's names lead into: the signature of the named part is the schema of its options."""

import pytest
import yaml

from tests.utils.test_config import PUBLISHED, changed, error, write
from utils.common_config import get_train_transformations
from utils.config import load_config

__all__ = ["write"]  # a fixture


OURS = {"num_strong_augs": 4, "cutout_kwargs": {"n_holes": 1, "length": 16}}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("augmentation_kwargs", {"crop_size": 32}, "the key 'augmentation_kwargs.num_strong_augs' is missing"),
        ("augmentation_kwargs", OURS | {"crop_siz": 3}, "'augmentation_kwargs.crop_siz'; did you mean 'crop_size'?"),
        ("augmentation_kwargs", OURS | {"num_strong_augs": "4"}, "augmentation_kwargs.num_strong_augs is 4; "),
        ("augmentation_kwargs", OURS | {"cutout_kwargs": 16}, "cutout_kwargs is 16; it should be a mapping with the"),
        ("augmentation_kwargs", OURS | {"cutout_kwargs": {"n_hole": 1}}, "cutout_kwargs.n_hole'; did you mean 'n_hol"),
        ("augmentation_kwargs", OURS | {"crop_size": 10**7}, "augmentation_kwargs.crop_size is 10000000; "),
        ("augmentation_strategy", "our", "augmentation_strategy is 'our', but must be one of standard, simclr, ours"),
        ("augmentation_strategy", "simclr", "unknown key 'augmentation_kwargs.crop_size'; did you mean 'random_re"),
        ("transformation_kwargs", {"crop": 32}, "unknown key 'transformation_kwargs.crop'; did you mean 'crop_size'?"),
        ("transformation_kwargs", {"crop_size": 32}, "the key 'transformation_kwargs.normalize' is missing"),
        ("transformation_kwargs", {"crop_size": 0}, "transformation_kwargs.crop_size is 0; "),
        ("train_db_kwargs", {"resize": 64}, "unknown key 'train_db_kwargs.resize'; cifar-10 takes root"),
        ("val_db_kwargs", {"stream": False}, "unknown key 'val_db_kwargs.stream'; cifar-10 takes root"),
        ("train_db_kwargs", {"root": 3}, "train_db_kwargs.root is 3; it should be a valid string"),
        ("stem", "imagnet", "backbone 'resnet18': stem is imagnet; it should be 'cifar', 'cifar_s2', 'stl' or 'imagen"),
        ("width", 0, "backbone 'resnet18' on cifar-10: width is 0; "),
        ("width", 10**7, "backbone 'resnet18' on cifar-10: width is 10000000; it should be less than or equal to 1024"),
        ("width", "64", "width is 64; it should be a valid integer"),
        ("backbone", "resnet50", "backbone 'resnet50' on cifar-10: stem is cifar; it should be 'imagenet'"),
        ("model_kwargs", {"head": "conv"}, "model_kwargs.head is conv; it should be 'linear', 'mlp' or "),
        ("model_kwargs", {"features_dim": 10**9}, "model_kwargs.features_dim is 1000000000; it should be less than"),
        ("scheduler_kwargs", {"lr_decay_rate": 0.1}, "'scheduler_kwargs.lr_decay_rate'; constant takes warmup_epochs"),
        ("optimizer_kwargs", {"lr": 1, "momentum": 0.9}, "'optimizer_kwargs.momentum'; adam takes lr, weight_decay, "),
    ],
)  # fmt: skip
def test_options_are_those_of_the_named_part(write, tmp_path, key, value, words):
    said = error(write(changed(**{key: value})))
    assert said.startswith(f"{tmp_path / 'exp.yml'}: ")
    assert words in said


def test_options_of_two_keys_that_clash(write):
    assert "the stem imagenet comes in one width" in error(write(changed(width=32, stem="imagenet")))
    large = {"backbone": "resnet50", "stem": "imagenet", "width": 9}
    assert "unknown key 'width'; resnet50 takes stem" in error(write(changed(**large)))
    assert "digits takes num_images" in error(write(changed(train_db_name="digits", train_db_kwargs={"root": "x"})))
    folder = {"train_db_name": "folder", "train_db_kwargs": {"root": "x"}, "val_db_name": None, "backbone": "resnet20"}
    large = {"crop_size": 224, "normalize": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    said = error(write(changed(**folder, transformation_kwargs=large, augmentation_kwargs=OURS)))
    assert "backbone 'resnet20' on folder: stem is imagenet; it should be 'cifar', 'cifar_s2' or 'stl'" in said
    load_config(*write(changed(**folder, stem="stl", transformation_kwargs=large, augmentation_kwargs=OURS)))


def test_what_only_training_needs_may_be_absent(write):
    """A config for evaluation names an optimizer perhaps, but no rate."""
    p = load_config(*write(changed(optimizer_kwargs=None, transformation_kwargs=None)))
    assert (p.optimizer_kwargs, p.transformation_kwargs) == ({}, {})


def test_defaults_of_data_and_head_are_written_into_the_config(write):
    p = load_config(*write(changed(train_db_name="folder", train_db_kwargs={"root": "x"}, criterion_kwargs={})))
    assert p.train_db_kwargs == {
        "root": "x", "labels": None, "resize": None, "stream": "auto", "cache_dir": None, "on_bad_image": "error",
    }  # fmt: skip
    assert (p.val_db_kwargs, p.model_kwargs) == ({"root": None, "split": None}, {"head": "mlp", "features_dim": 128})
    assert (p.criterion_kwargs, p.optimizer_kwargs) == ({}, {"lr": 1e-4, "weight_decay": 1e-4})


def test_views_take_crop_size_and_normalization_from_the_evaluation_transform(write):
    """Unless they have their own; for every strategy, and key by key."""
    normalize = yaml.safe_load(PUBLISHED)["transformation_kwargs"]["normalize"]
    own = {"num_strong_augs": 4, "cutout_kwargs": {"n_holes": 1, "length": 16}}
    p = load_config(*write(changed(augmentation_kwargs=own)))
    assert p.augmentation_kwargs == {**own, "crop_size": 32, "normalize": normalize}
    assert load_config(*write(PUBLISHED)) == load_config(*write(changed(augmentation_kwargs={**own, "cutout_kwargs": {
        "n_holes": 1, "length": 16, "random": True}})))  # fmt: skip
    p = load_config(*write(changed(augmentation_kwargs={**own, "crop_size": 24, "normalize": {"std": [1, 2, 3]}})))
    assert p.augmentation_kwargs.crop_size == 24
    assert p.augmentation_kwargs.normalize == {"mean": normalize["mean"], "std": [1, 2, 3]}
    crop = {"augmentation_strategy": "standard", "augmentation_kwargs": {"random_resized_crop": {"scale": [0.5, 1]}}}
    p = load_config(*write(changed(**crop)))
    assert p.augmentation_kwargs == {"random_resized_crop": {"size": 32, "scale": [0.5, 1]}, "normalize": normalize}
    assert get_train_transformations(p).size == 32
    for name in ("affine", "evaluation"):
        p = load_config(*write(changed(augmentation_strategy=name, augmentation_kwargs={})))
        assert p.augmentation_kwargs == {"crop_size": 32, "normalize": normalize}
    del p["augmentation_kwargs"]["crop_size"]  # as by hand
    p.transformation_kwargs.crop_size = 28
    assert get_train_transformations(p).size == 28
    assert "the key 'augmentation_kwargs.crop_size' is missing" in error(
        write(changed(augmentation_kwargs=own, transformation_kwargs=None))
    )
