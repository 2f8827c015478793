"""Learn features by telling how images are turned (RotNet), then mine every image's nearest neighbors.

    python -m methods.rotnet --config_exp configs/pretext/rotnet_digits.yml
    python -m methods.rotnet --config_exp configs/pretext/rotnet_cifar10.yml mine_features=layer2 run_name=rotnet_layer2
    python scan.py --config_exp configs/scan/scan_digits.yml pretext_run=rotnet run_name=rotnet

Every image in its four quarter turns, and a linear layer on the backbone that tells them apart
(https://arxiv.org/abs/1803.07728). Writes what simclr.py writes; the same command continues an interrupted run.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from system.distributed import gather
from training.run import Run
from utils import cli, pretext
from utils.common_config import (
    get_criterion,
    get_model,
    get_optimizer,
    get_train_transformations,
    get_view_loader,
)
from utils.stage import run_stage


def quarter_turns(images: Tensor) -> Tensor:
    """Images `[B, C, S, S]` by 0, 90, 180 and 270 degrees counterclockwise: `[B, 4, C, S, S]`."""
    return torch.stack([torch.rot90(images, turn, (2, 3)) for turn in range(4)], dim=1)


def step(
    forward: Callable[[Tensor], Tensor], criterion: Callable[[Tensor, Tensor], Tensor], view: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss of all four turns of a batch, and the share of turns that are told rightly."""
    logits = gather(forward(quarter_turns(view).flatten(0, 1)))
    turns = torch.arange(4, device=logits.device).repeat(len(logits) // 4)
    return criterion(logits, turns), (logits.argmax(1) == turns).float().mean()


def train(p: Any, run: Run) -> dict[str, Any]:
    """Train what is left of the run; returns its result."""
    train_set, mined, val_set = pretext.get_splits_to_mine(p, run)
    loader = get_view_loader(p, train_set, [get_train_transformations(p)], run)
    criterion = get_criterion(p)
    model = run.runtime.place(get_model(p))
    forward = run.prepare(model, get_optimizer(p, model), loader)
    monitor = pretext.KnnMonitor(p, run.model, mined, val_set, run.runtime)

    for epoch in run.epochs():
        model.train()
        for batch in run.steps(loader):
            loss, turn_acc = step(forward, criterion, *batch.views)
            run.step(loss, turn_acc=turn_acc)
        run.end_epoch(knn_acc=monitor.accuracy() if monitor.due(epoch) else None)

    return pretext.save_and_mine(p, run.model, run, mined, val_set)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_stage("rotnet", train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
