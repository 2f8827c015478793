"""Refining clusters of pretrained features: self-labeling that trains the network's last layers on strong views.

By default it takes a fixed number of epochs, which follows from the number of images and the network, and ends early
where the label-free score no longer rises; with `--minutes` it goes by the clock. What comes out competes with all
clusterings that were there before, by the judge's rule (docs/measurements.md says how often it wins).
"""

from dataclasses import replace
from typing import Any

from models.plain import is_given
from models.pretrained import Pretrained
from recipes.choose import JITTER, Recipe, batch_size, is_sign
from recipes.look import Look
from system.errors import ConfigError

STAGE = "selflabel"
RATE = 3e-5
# What all epochs may cost, in GFLOP of one pass of their images through the network: so much, and so much more for each
# image of the folder. On two cores 2,000 images and both embedded networks have one epoch, of a minute.
GFLOP = {"cpu": (1_300.0, 0.4), "gpu": (39_000.0, 12.0)}
MOST = 10
MOST_BY_THE_CLOCK = 30


def num_epochs(num_images: int, gflop: float, device: str) -> int:
    """Epochs of refining by default, 0 where a single one would take too long.

    `gflop` is what an image costs, the device a type (`cuda`, `mps`, `cpu`).
    """
    base, more = GFLOP["cpu" if device == "cpu" else "gpu"]
    return min(int((base + more * num_images) / (gflop * num_images)), MOST)


def refining_config(look: Look, facts: Pretrained, device: str) -> dict[str, Any]:
    """What the config of self-labeling adds to that of the features that it goes on from.

    Strong views have the side and the normalization of the plain ones, whatever those are in the end.
    """
    views: dict[str, Any]
    if is_sign(look):
        strategy, views = "affine", {}
    else:
        strategy = "simclr"
        views = {
            "random_resized_crop": {"scale": [0.4, 1.0]},
            "color_jitter_random_apply": {"p": 0.8},
            "color_jitter": dict(JITTER),
            "random_grayscale": {"p": 0.2},
        }
    return {
        "starts_from": "candidates",
        "trained_layers": 1,
        "patience": 2,
        "augmentation_strategy": strategy,
        "augmentation_kwargs": views,
        "criterion": "confidence-cross-entropy",
        "criterion_kwargs": {"apply_class_balancing": True},
        "confidence_threshold": 0.9,
        "batch_size": batch_size(64, look.num_images, 4),
        "optimizer": "adam",
        "optimizer_kwargs": {"lr": RATE},
        "epochs": num_epochs(look.num_images, facts.gflop, device) or MOST_BY_THE_CLOCK,
    }


def by_the_clock(recipe: Recipe, competes: bool = False) -> Recipe:
    """The recipe where minutes say how long its clusters are refined.

    Raises ConfigError where there is nothing to refine, unless a network `competes` that is trained in these minutes.
    """
    if "candidates" not in recipe.configs or (competes and STAGE not in recipe.configs):
        return recipe
    if STAGE not in recipe.configs:
        more = ", or give 6 or more for one number of clusters, which also train a network on the images alone"
        raise ConfigError(
            "--minutes is for refining, which needs a network whose last layers are known; leave it out"
            + ("" if is_given(recipe.configs["pretrained"]["backbone"]) else more)
        )
    own = {**recipe.configs[STAGE], "epochs": MOST_BY_THE_CLOCK}
    return replace(recipe, configs={**recipe.configs, STAGE: own}, refines=True)


def stages_of(recipe: Recipe, several: bool = False) -> list[str]:
    """The stages of a recipe that run; of `several` numbers of clusters, none is refined but for minutes."""
    left_out = STAGE if "candidates" in recipe.configs and (several or not recipe.refines) else ""
    return [stage for stage in recipe.configs if stage != left_out]
