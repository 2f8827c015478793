"""Choose a recipe by what the images are like, how many there are, and what they are computed on.

The tables below are the recipes; `choose` turns a row into the configs of three stages.
"""

from dataclasses import dataclass
from typing import Any

from clustering.neighbors import limit_neighbors
from data.augment import AUGMENTATIONS
from recipes.look import Look
from system.sections import section_of

STAGES = ("simclr", "scan", "selflabel")
FEATURE_STAGES = ("pretrained", "candidates")
CACHE_BYTES = 20e9  # decoded images kept on disk between the stages; more are decoded while training
SIDES_SEEN = "images can be distinguished from their mirror images; --flip flips views anyway"
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


@dataclass(frozen=True)
class Network:
    """A backbone and the side of the squares that it sees."""

    backbone: str
    stem: str
    width: int | None
    side: int


@dataclass(frozen=True)
class Schedule:
    """Epochs of a stage: as many as let it see `num_views` images, but within limits."""

    num_views: int
    lowest: int
    highest: int

    def epochs(self, num_images: int) -> int:
        """The number of epochs for so many images."""
        return min(max(round(self.num_views / num_images), self.lowest), self.highest)


# Largest short side: the network on a GPU, and on a CPU.
SIGNS = {20: Network("resnet8", "cifar_s2", None, 16), 48: Network("resnet8", "cifar_s2", 32, 32)}
ON_GPU = {
    48: Network("resnet18", "cifar", None, 32),
    80: Network("resnet18", "cifar_s2", None, 64),
    160: Network("resnet18", "stl", None, 96),
    None: Network("resnet18", "imagenet", None, 224),
}
ON_CPU = {48: Network("resnet20", "cifar_s2", 32, 32), None: Network("resnet20", "cifar_s2", 32, 64)}
QUICK = {48: Network("resnet8", "cifar_s2", 32, 32), None: Network("resnet8", "cifar_s2", 32, 48)}

SCHEDULES: dict[str, dict[str, Schedule]] = {
    "signs": {
        "simclr": Schedule(110_000, 15, 200),
        "scan": Schedule(54_000, 10, 100),
        "selflabel": Schedule(36_000, 5, 50),
    },
    "gpu": {
        "simclr": Schedule(25_000_000, 100, 1000),
        "scan": Schedule(2_500_000, 50, 200),
        "selflabel": Schedule(5_000_000, 50, 200),
    },
    "cpu": {
        "simclr": Schedule(1_000_000, 20, 200),
        "scan": Schedule(400_000, 10, 100),
        "selflabel": Schedule(400_000, 10, 100),
    },
    # Two to three minutes on two cores; the epochs follow from the images, not from how busy the machine is.
    "quick": {
        "simclr": Schedule(160_000, 3, 100),
        "scan": Schedule(60_000, 3, 50),
        "selflabel": Schedule(40_000, 3, 30),
    },
}


@dataclass
class Recipe:
    """A name, the reasons for it, and the configs of the stages by their `setup`.

    `refines` is whether clusters of features are refined.
    """

    name: str
    reasons: list[str]
    configs: dict[str, dict[str, Any]]
    refines: bool = True


def is_sign(look: Look) -> bool:
    """Whether images are gray and small, so that they are taken for signs."""
    return look.gray and _row(SIGNS, look.short_side) is not None


def _row(table: dict[Any, Network], short_side: int) -> Network | None:
    return next((network for limit, network in table.items() if limit is None or short_side <= limit), None)


def batch_size(wanted: int, num_images: int, num_steps: int) -> int:
    """The wanted batch size, or a smaller power of two that leaves `num_steps` an epoch; never above the data set."""
    fitting = 1 << max(5, (num_images // num_steps).bit_length() - 1)
    return min(wanted, fitting, num_images)


def choose(look: Look, num_clusters: int, device: str, quick: bool = False, flip: bool = True) -> Recipe:
    """Choose the recipe of a folder for a device type (`cuda`, `mps`, `cpu`); no label is asked.

    Without `flip` no view of an image is its mirror image.
    """
    signs = _row(SIGNS, look.short_side) if look.gray else None
    if signs is not None:
        kind, network = "signs", signs
        why = "gray and small, so treated as signs: views are warped, never flipped"
    else:
        kind = "gpu" if device == "cuda" else "cpu"
        found = _row({"gpu": ON_GPU, "cpu": QUICK if quick else ON_CPU}[kind], look.short_side)
        assert found is not None  # these tables end with a row for every size
        changes = "cropped, flipped, and changed in color" if flip else "cropped and changed in color, never flipped"
        changes += f" ({SIDES_SEEN})" if look.has_sides and not flip else ""
        network, why = found, f"treated as pictures of things: views are {changes}"
    shape = f"{network.backbone} ({network.stem} stem) on {network.side}×{network.side}"
    common = _common(look, num_clusters, network, kind)
    build = _sign_stages if kind == "signs" else _picture_stages
    stages = build(look, num_clusters, network)
    if not flip:
        forbid_flips(stages)
    configs = {}
    for stage, own in stages.items():
        schedule = "quick" if quick and kind == "cpu" else kind
        epochs = SCHEDULES[schedule][stage].epochs(look.num_images)
        epochs = max(epochs // 10, 10) if quick and kind == "gpu" else epochs
        configs[stage] = {"setup": stage, **common, **own, "epochs": epochs}
    reasons = [f"{look.words}; {why}", f"{shape}, for {device}"]
    return Recipe(f"{kind}, {shape}", reasons, configs)


def forbid_flips(stages: dict[str, dict[str, Any]]) -> bool:
    """Let no view in the configs of stages be flipped; returns whether one was to be."""
    changed = False
    for config in stages.values():
        strategy: Any = AUGMENTATIONS.get(config.get("augmentation_strategy", ""))
        if strategy and "flip" in section_of(strategy).model_fields:
            config["augmentation_kwargs"] = {**config["augmentation_kwargs"], "flip": 0.0}
            changed = True
    return changed


def _common(look: Look, num_clusters: int, network: Network, kind: str) -> dict[str, Any]:
    memory = 3 * network.side**2 * look.num_images
    config: dict[str, Any] = {
        "train_db_name": "folder",
        "train_db_kwargs": {
            "root": str(look.files.root.resolve()),
            "stream": memory > CACHE_BYTES,
            "on_bad_image": "skip",
        },
        "num_classes": num_clusters,
        "backbone": network.backbone,
        "stem": network.stem,
        "transformation_kwargs": {"crop_size": network.side, "normalize": {"mean": look.mean, "std": look.std}},
    }
    if network.width:
        config["width"] = network.width
    if kind == "signs":
        config["precision"] = "fp32"
    return config


def _mining(look: Look) -> dict[str, Any]:
    return {"num_mined_train": min(20, look.num_images - 1), "num_mined_val": min(5, look.num_images - 1)}


def _sign_stages(look: Look, num_clusters: int, network: Network) -> dict[str, dict[str, Any]]:
    """For small gray signs, such as handwritten digits: affine views, neighbors of the backbone's features."""
    num_images = look.num_images
    views = {
        "augmentation_strategy": "affine",
        "augmentation_kwargs": {"crop_size": network.side, "normalize": {"mean": look.mean, "std": look.std}},
    }
    return {
        "simclr": {
            **views,
            **_mining(look),
            "mine_features": "backbone",
            "model_kwargs": {"head": "mlp", "features_dim": 128},
            "criterion": "simclr",
            "criterion_kwargs": {"temperature": 0.5},
            "batch_size": batch_size(128, num_images, 8),
            "optimizer": "adamw",
            "optimizer_kwargs": {"lr": 5e-3, "weight_decay": 1e-4},
            "scheduler": "cosine",
            "scheduler_kwargs": {"lr_decay_rate": 0.1, "warmup_epochs": 5},
        },
        "scan": {
            **views,
            "num_neighbors": limit_neighbors(10, look.num_images, num_clusters),
            "num_heads": 10,  # cheap, and the label-free choice among them keeps clear of bad starts
            "criterion": "scan",
            "criterion_kwargs": {"entropy_weight": 5.0},
            "batch_size": batch_size(128, num_images, 8),
            "optimizer": "adam",
            "optimizer_kwargs": {"lr": 5e-3},
        },
        "selflabel": {
            **views,
            "criterion": "confidence-cross-entropy",
            "criterion_kwargs": {"apply_class_balancing": True},
            "confidence_threshold": 0.95,
            "batch_size": batch_size(256, num_images, 4),
            "optimizer": "adam",
            "optimizer_kwargs": {"lr": 1e-3},
        },
    }


def _picture_stages(look: Look, num_clusters: int, network: Network) -> dict[str, dict[str, Any]]:
    """The published recipe of natural images; a small network gets a larger rate and more heads for fewer epochs."""
    num_images, side = look.num_images, network.side
    normalize = {"mean": look.mean, "std": look.std}
    small = network.backbone != "resnet18"
    batch = batch_size(256 if small or side > 96 else 512, num_images, 8)
    rate = 1e-3 if small else 1e-4
    strong = {
        "augmentation_strategy": "ours",
        "augmentation_kwargs": {
            "crop_size": side,
            "normalize": normalize,
            "num_strong_augs": 4,
            "cutout_kwargs": {"n_holes": 1, "length": side // 2 if side <= 64 else side // 3},
        },
    }
    adam = {"optimizer": "adam", "optimizer_kwargs": {"lr": rate, "weight_decay": 1e-4}}
    return {
        "simclr": {
            **_mining(look),
            "augmentation_strategy": "simclr",
            "augmentation_kwargs": {
                "random_resized_crop": {"size": side, "scale": [0.2, 1.0]},
                "color_jitter_random_apply": {"p": 0.8},
                "color_jitter": dict(JITTER),
                "random_grayscale": {"p": 0.2},
                "normalize": normalize,
            },
            "model_kwargs": {"head": "mlp", "features_dim": 128},
            "criterion": "simclr",
            "criterion_kwargs": {"temperature": 0.1},
            "batch_size": batch,
            "optimizer": "sgd",
            "optimizer_kwargs": {"lr": round(0.4 * batch / 512, 4), "momentum": 0.9, "weight_decay": 1e-4},
            "scheduler": "cosine",
            "scheduler_kwargs": {"lr_decay_rate": 0.1, "warmup_epochs": 2},
        },
        "scan": {
            **strong,
            "num_neighbors": limit_neighbors(20, look.num_images, num_clusters),
            "num_heads": 5 if small else 1,
            "criterion": "scan",
            "criterion_kwargs": {"entropy_weight": 5.0},
            "batch_size": batch_size(128, num_images, 8),
            **adam,
        },
        "selflabel": {
            **strong,
            "criterion": "confidence-cross-entropy",
            "criterion_kwargs": {"apply_class_balancing": True},
            "confidence_threshold": 0.9 if small else 0.99,
            "batch_size": batch_size(512 if small else 1000, num_images, 4),
            **adam,
        },
    }
