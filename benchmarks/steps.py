"""The training step of every stage on made-up images, as the stage scripts do it."""

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import common
from benchmarks.published import NUM_NEIGHBORS
from data.dataset import ImageDataset
from data.loaders import NeighborPartner, ViewLoader
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
        self.loader = ViewLoader(dataset, strategies, p.batch_size, runtime, (0, stage), partners, epochs=p.epochs)
        self.criterion = get_criterion(p)
        self.run = Run(p, runtime)
        torch.manual_seed(0)
        self.model = runtime.place(get_model(p)).train()
        self.forward = self.run.prepare(self.model, get_optimizer(p, self.model))
        self.views = self._views()

    def _views(self) -> Iterator[tuple[Tensor, ...]]:
        for epoch in itertools.count():
            yield from self.loader.epoch(epoch)

    def __call__(self, views: tuple[Tensor, ...] | None = None) -> None:
        """Do one step."""
        STEPS[self.stage](self, *(views or next(self.views)))


def simclr(step: Step, first: Tensor, second: Tensor) -> None:
    """As in simclr.py."""
    features = step.forward(torch.cat([first, second])).unflatten(0, (2, -1)).transpose(0, 1)
    step.run.step(step.criterion(features))


def scan(step: Step, anchors: Tensor, neighbors: Tensor) -> None:
    """As in scan.py."""
    heads = zip(step.forward(anchors), step.forward(neighbors), strict=True)
    losses = [step.criterion(anchor, neighbor) for anchor, neighbor in heads]
    step.run.step(sum((loss.total for loss in losses), torch.zeros((), device=anchors.device)))


def selflabel(step: Step, plain: Tensor, strong: Tensor) -> None:
    """As in selflabel.py."""
    with torch.no_grad():
        plain_logits = step.forward(plain)[0]
    confident = step.criterion.confident(plain_logits)
    step.run.totals.maximum(highest_confidence=plain_logits.softmax(1).max())
    step.run.totals.count(confident=confident.sum(), confident_per_cluster=step.criterion.count(plain_logits))
    step.run.step(step.criterion(plain_logits, step.forward(strong)[0]), skip=~confident.any())


STEPS: dict[str, Callable[..., Any]] = {"simclr": simclr, "scan": scan, "selflabel": selflabel}
