"""Features over several processes, interrupted on all of them: parts are kept, joined and removed."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clustering.features import Embedder
from clustering.parts import Parts
from data.augment import Evaluation
from data.dataset import ImageDataset
from system import distributed
from system.runtime import Runtime

pytestmark = pytest.mark.slow
NUM_IMAGES, BATCH = 83, 2


class Interrupted(Exception):
    pass


class Mean(nn.Module):
    """The mean color, at most so many times; counts the images."""

    def __init__(self, most):
        super().__init__()
        self.most, self.num_images = most, 0

    def forward(self, images):
        if self.num_images >= self.most:
            raise Interrupted
        self.num_images += len(images)
        return images.mean((2, 3))


def interrupted(in_memory):
    """Features of a second call, what it computed on this rank, and the files that are left."""
    pixels = torch.randint(256, (NUM_IMAGES, 3, 8, 8), generator=torch.Generator().manual_seed(6), dtype=torch.uint8)
    dataset = ImageDataset("tiny", pixels, torch.zeros(NUM_IMAGES), ["one"], list(map(str, range(NUM_IMAGES))))
    embedder = Embedder(Evaluation(8, {"mean": [0.5] * 3, "std": [0.25] * 3}), Runtime.start("cpu", "fp32"), BATCH)
    folder = Path(tempfile.gettempdir()) / f"parts-{os.environ.get('MASTER_PORT', os.getpid())}-{in_memory}"
    path = folder / "features.npy"
    parts = Parts(path, "these")
    if distributed.is_main():
        folder.mkdir()
    distributed.barrier()

    def embed(module):
        if in_memory:
            return embedder.embed(module, dataset, parts=parts)
        return torch.from_numpy(np.array(embedder.embed_to_file(path, module, dataset, made_from="these")))

    with pytest.raises(Interrupted):
        embed(Mean(20))
    again = Mean(1000)
    found = embed(again)
    assert torch.equal(embed(Mean(0)), found)  # nothing is left to compute
    distributed.barrier()
    parts.remove(distributed.slice_of(NUM_IMAGES))
    left = sorted(file.name for file in folder.iterdir())
    distributed.barrier()
    if distributed.is_main():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    expected = embedder.embed(Mean(1000), dataset)
    return {"same": torch.equal(found, expected), "computed": again.num_images, "left": left}


def one_image():
    """The features of a single image, which all ranks but the first do without."""
    pixels = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    dataset = ImageDataset("single", pixels, torch.zeros(1), ["one"], ["0"])
    strategy = Evaluation(8, {"mean": [0.5] * 3, "std": [0.25] * 3})
    return Embedder(strategy, Runtime.start("cpu", "fp32"), BATCH).embed(Mean(1000), dataset)


INTERRUPTED = {"in memory": lambda: interrupted(True), "in a file": lambda: interrupted(False)}
CASES = {**INTERRUPTED, "one image": one_image}


def test_every_rank_has_the_features_of_fewer_images_than_ranks(ranks):
    for found in (*(rank["one image"] for rank in ranks), one_image()):
        assert torch.allclose(found, torch.full((1, 3), 2.0))


@pytest.mark.parametrize("name", INTERRUPTED)
def test_every_rank_goes_on_after_its_own_parts(ranks, name):
    sizes = [NUM_IMAGES // len(ranks) + (rank < NUM_IMAGES % len(ranks)) for rank in range(len(ranks))]
    alone = CASES[name]()
    for own, found in zip([*sizes, NUM_IMAGES], [*(rank[name] for rank in ranks), alone], strict=True):
        assert found["same"]
        assert found["computed"] == own - 16  # the first part, of eight batches
        assert found["left"] == ([] if name == "in memory" else ["features.npy"]) + ["manifest.json"]
