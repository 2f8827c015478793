"""How long the stages of a recipe take on this machine; what is measured feeds the estimate alone."""

import time
from typing import Any

import torch
from easydict import EasyDict

from models.plain import is_given
from recipes.choose import STAGES, Recipe
from recipes.look import Look
from system.runtime import Runtime, generator
from utils.common_config import get_model, get_train_transformations

REFINING = 3.7  # an epoch, as often as the features of all images: two views, one with gradient, and the score
COST = {"simclr": 1.0, "scan": 1.0, "selflabel": 0.75}  # of an image in a stage, two views with gradient being 1
# Guesses, which are corrected while the stages run: features of an image on a CPU and on a GPU, and all clusterings of
# some images and of one more.
FEATURE_SECONDS = {"cpu": 0.006, "gpu": 0.001}
CLUSTERING_SECONDS = (15.0, 0.008)
NUM_TIMED = 3


def estimate(recipe: Recipe, look: Look, runtime: Runtime) -> dict[str, float]:
    """Estimate the seconds of an epoch of each stage of a recipe, or of all of it where a stage has no epochs."""
    if "simclr" in recipe.configs:
        p = EasyDict(recipe.configs["simclr"])
        second = time_step(p, runtime.place(get_model(p)), runtime) / p.batch_size * look.num_images
        return {stage: max(second * COST[stage], 1e-6) for stage in STAGES}
    config = recipe.configs["pretrained"]
    side = 0 if is_given(config["backbone"]) else config["transformation_kwargs"]["crop_size"]
    each = FEATURE_SECONDS["cpu" if runtime.device.type == "cpu" else "gpu"] * (side / 128) ** 2
    base, more = CLUSTERING_SECONDS
    features = each * look.num_images
    found = {"pretrained": features + 5, "candidates": base + more * look.num_images}
    return {**found, "selflabel": REFINING * features}


def time_step(p: EasyDict, model: Any, runtime: Runtime) -> float:
    """Seconds of one step's forward and backward passes on random images, without touching the weights."""
    augment = get_train_transformations(p)
    images = torch.randint(
        256, (p.batch_size, 3, augment.size, augment.size), generator=generator(0), dtype=torch.int64
    )
    images = images.to(torch.uint8).to(runtime.device)
    model.train()
    times = []
    for _ in range(NUM_TIMED):
        started = time.monotonic()
        for _ in range(2):  # every stage forwards two views of every image
            outputs = runtime.forward(model, augment(images), runtime.training)
            loss = sum(output.square().mean() for output in (outputs if isinstance(outputs, list) else [outputs]))
            loss.backward()
        loss.item()  # waits for the device
        times.append(time.monotonic() - started)
    model.zero_grad(set_to_none=True)
    return min(times)
