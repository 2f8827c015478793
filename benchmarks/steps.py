"""The training step of every stage on made-up images, as the stage scripts do it."""

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

import scan
import selflabel
import simclr
from benchmarks import common
from benchmarks.published import NUM_NEIGHBORS
from data.dataset import ImageDataset
from data.loaders import Batch, NeighborPartner, ViewLoader
from system.runtime import Runtime
from training.run import Run
from utils.common_config import (
    get_criterion,
    get_model,
    get_optimizer,
    get_train_transformations,
    get_val_transformations,
)
from utils.config import load_config
from utils.stage import KEYS

CONFIGS = {
    "simclr": "pretext/simclr_cifar10_jpeg.yml",
    "scan": "scan/scan_cifar10_jpeg.yml",
    "selflabel": "selflabel/selflabel_cifar10_jpeg.yml",
}


def make_images(num: int, size: int = 32) -> ImageDataset:
    """Smooth random images without labels."""
    coarse = torch.rand(num, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)
    return ImageDataset("made up", images, torch.full((num,), -1), [], [str(number) for number in range(num)])


class Step:
    """A stage's model, optimizer and loader; calling it does the next step, on given views or on the loader's."""

    def __init__(self, stage: str, runtime: Runtime, words: Sequence[str] = (), num_images: int = 0) -> None:
        self.folder = tempfile.TemporaryDirectory()  # nothing is written there
        root = f"root_dir={self.folder.name}"
        self.p = p = load_config(None, common.ROOT / "configs" / CONFIGS[stage], [root, *words])
        self.stage, self.runtime = stage, runtime
        self.dataset = dataset = make_images(num_images or min(64 * p.batch_size, 50_000))
        augment = get_train_transformations(p)
        strategies = [get_val_transformations(p) if stage == "selflabel" else augment, augment]
        neighbors = torch.randint(len(dataset), (len(dataset), NUM_NEIGHBORS + 1))
        partners = [None, NeighborPartner(neighbors, NUM_NEIGHBORS)] if stage == "scan" else None
        self.run = Run(p, runtime, stage, Path(self.folder.name), KEYS)
        self.loader = ViewLoader(dataset, strategies, p.batch_size, runtime, (0, stage), partners)
        self.criterion = get_criterion(p)
        torch.manual_seed(0)
        self.model = runtime.place(get_model(p)).train()
        self.forward = self.run.prepare(self.model, get_optimizer(p, self.model), self.loader)
        self.batches = self._batches()

    def _batches(self) -> Iterator[Batch]:
        for epoch in itertools.count():
            yield from self.loader.epoch(epoch)

    def __call__(self, views: tuple[Tensor, ...] | None = None) -> None:
        """Do one step."""
        LOOPS[self.stage](self, *(views or next(self.batches).views))


def _simclr(step: Step, *views: Tensor) -> None:
    step.run.step(simclr.step(step.forward, step.criterion, *views))


def _scan(step: Step, *views: Tensor) -> None:
    total, consistency, entropy = scan.step(step.forward, step.criterion, *views)
    step.run.step(total, consistency=consistency, entropy=entropy)


def _selflabel(step: Step, *views: Tensor) -> None:
    loss, labels = selflabel.step(step.forward, step.criterion, *views)
    step.run.totals.maximum(highest_confidence=labels.probability.max())
    step.run.totals.count(confident=labels.confident.sum(), confident_per_cluster=labels.counts)
    step.run.step(loss, skip=~labels.confident.any())


# What the loop of a stage script does with a batch.
LOOPS: dict[str, Callable[..., None]] = {"simclr": _simclr, "scan": _scan, "selflabel": _selflabel}
