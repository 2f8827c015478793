"""Refining clusters of pretrained features: self-labeling that trains the network's last layers on strong views.

It runs where `--minutes` asks for it: it takes far longer than all clusterings together, and the label-free score does
not always prefer what comes out (benchmarks/refining.py).
"""

from typing import Any

from models.pretrained import Pretrained
from recipes.choose import JITTER, Recipe, Schedule, batch_size, is_sign
from recipes.look import Look
from system.errors import ConfigError

STAGE = "selflabel"
SCHEDULE = Schedule(60_000, 3, 30)
RATE = 3e-5


def refining_config(look: Look, facts: Pretrained) -> dict[str, Any]:
    """What the config of self-labeling adds to that of the features that it goes on from."""
    normalize = {"mean": list(facts.mean), "std": list(facts.std)}
    if is_sign(look):
        strategy, views = "affine", {"crop_size": facts.side, "normalize": normalize}
    else:
        strategy = "simclr"
        views = {
            "random_resized_crop": {"size": facts.side, "scale": [0.4, 1.0]},
            "color_jitter_random_apply": {"p": 0.8},
            "color_jitter": dict(JITTER),
            "random_grayscale": {"p": 0.2},
            "normalize": normalize,
        }
    return {
        "starts_from": "candidates",
        "trained_layers": 1,
        "patience": 3,
        "augmentation_strategy": strategy,
        "augmentation_kwargs": views,
        "criterion": "confidence-cross-entropy",
        "criterion_kwargs": {"apply_class_balancing": True},
        "confidence_threshold": 0.9,
        "batch_size": batch_size(64, look.num_images, 4),
        "optimizer": "adam",
        "optimizer_kwargs": {"lr": RATE},
        "epochs": SCHEDULE.epochs(look.num_images),
    }


def stages_of(recipe: Recipe, minutes: float | None) -> list[str]:
    """The stages of a recipe that run: clusters of pretrained features are refined for `--minutes` only.

    Raises ConfigError where minutes are given and there is nothing to refine.
    """
    if minutes and "candidates" in recipe.configs and STAGE not in recipe.configs:
        raise ConfigError("--minutes is for refining, which needs a network, not features of a file; leave it out")
    left_out = STAGE if not minutes and "candidates" in recipe.configs else ""
    return [stage for stage in recipe.configs if stage != left_out]
