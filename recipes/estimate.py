"""How long the stages of a recipe take on this machine; what is measured feeds the estimate alone."""

import time
from typing import Any

import torch
from easydict import EasyDict

from models.plain import is_given
from models.pretrained import describe_pretrained
from recipes.choose import STAGES, Recipe
from recipes.look import Look
from system.errors import out_of_memory
from system.runtime import Runtime, generator
from utils.common_config import get_model, get_train_transformations

# Guesses for two cores or a GPU, which are corrected while the stages run.
COST = {"simclr": 1.0, "scan": 1.0, "selflabel": 0.75}  # of an image in a stage, two views with gradient being 1
SECONDS_PER_GFLOP = {"cpu": 0.006, "gpu": 0.0005}  # of features
REFINING = 8.0  # an epoch, as often as the features of all images: two views, one with gradient, and the score
MINING_SECONDS = {"cpu": 3e-8, "gpu": 6e-11}  # of a pair of images
CLUSTERING_SECONDS = {"cpu": (20.0, 15.0, 0.005), "gpu": (20.0, 10.0, 0.0005)}  # in all, for a network, for an image
NUM_TIMED, MOST_TIMED, SECONDS_TIMED = 3, 30, 3.0  # steps: so many, and more while that takes less


def estimate(recipe: Recipe, look: Look, runtime: Runtime) -> dict[str, float]:
    """Estimate the seconds of an epoch of each stage of a recipe, or of all of it where a stage has no epochs."""
    if "simclr" in recipe.configs:
        second = time_image(EasyDict(recipe.configs["simclr"]), runtime) * look.num_images
        return {stage: max(second * COST[stage], 1e-6) for stage in STAGES}
    name, device = recipe.configs["pretrained"]["backbone"], runtime.device.type
    facts = None if is_given(name) else describe_pretrained(name, device=device, image_side=look.short_side)
    device = "cpu" if device == "cpu" else "gpu"
    features = SECONDS_PER_GFLOP[device] * facts.gflop * look.num_images if facts else 0.0
    base, network, image = CLUSTERING_SECONDS[device]
    return {
        "pretrained": 5 + features + MINING_SECONDS[device] * look.num_images**2,
        "candidates": base + network * (len(facts.dims) if facts else 1) + image * look.num_images,
        "selflabel": REFINING * features,
    }


def time_image(p: EasyDict, runtime: Runtime) -> float:
    """Seconds of an image in a step of a stage, in as large a part of its batches as fits into memory."""
    model = runtime.place(get_model(p))
    while True:
        try:
            return time_step(p, model, runtime) / p.batch_size
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or p.batch_size < 4:
                raise
        p.batch_size //= 2


def time_step(p: EasyDict, model: Any, runtime: Runtime) -> float:
    """Seconds of one step's forward and backward passes on random images, without touching the weights.

    The shortest of several: beside other work a short step may take many times as long as the next one.
    """
    augment = get_train_transformations(p)
    images = torch.randint(
        256, (p.batch_size, 3, augment.size, augment.size), generator=generator(0), dtype=torch.int64
    )
    images = images.to(torch.uint8).to(runtime.device)
    model.train()
    times: list[float] = []
    while len(times) < NUM_TIMED or (len(times) < MOST_TIMED and sum(times) < SECONDS_TIMED):
        started = time.monotonic()
        for _ in range(2):  # every stage forwards two views of every image
            outputs = runtime.forward(model, augment(images), runtime.training)
            loss = sum(output.square().mean() for output in (outputs if isinstance(outputs, list) else [outputs]))
            loss.backward()
        loss.item()  # waits for the device
        times.append(time.monotonic() - started)
    model.zero_grad(set_to_none=True)
    return min(times)
