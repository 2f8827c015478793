"""Learn features without labels (SimCLR), then mine every image's nearest neighbors.

    python simclr.py --config_exp configs/pretext/simclr_digits.yml
    python simclr.py --config_exp configs/pretext/simclr_cifar10.yml epochs=100 run_name=short
    python simclr.py --config_exp configs/pretext/simclr_cifar10.yml --mine_only --model released.pth.tar
    torchrun --nproc_per_node 8 simclr.py --config_exp configs/pretext/simclr_cifar10.yml

Writes model.pth.tar and topk-{train,val}-neighbors.npy to {root_dir}/{train_db_name}/pretext. The same command
continues an interrupted run.
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


def step(forward: Callable[[Tensor], Tensor], criterion: Callable[[Tensor], Tensor], *views: Tensor) -> Tensor:
    """The SimCLR loss of both views of a batch, which go through the network in one forward."""
    features = forward(torch.cat(views)).unflatten(0, (2, -1)).transpose(0, 1)
    return criterion(gather(features))


def train(p: Any, run: Run) -> dict[str, Any]:
    """Train what is left of the run; returns its result."""
    train_set, mined, val_set = pretext.get_splits_to_mine(p, run)
    augment = get_train_transformations(p)
    loader = get_view_loader(p, train_set, [augment, augment], run)
    criterion = get_criterion(p)
    model = run.runtime.place(get_model(p))
    forward = run.prepare(model, get_optimizer(p, model), loader)
    monitor = pretext.KnnMonitor(p, run.model, mined, val_set, run.runtime)

    for epoch in run.epochs():
        model.train()
        for batch in run.steps(loader):
            run.step(step(forward, criterion, *batch.views))
        run.end_epoch(knn_acc=monitor.accuracy() if monitor.due(epoch) else None)

    return pretext.save_and_mine(p, run.model, run, mined, val_set)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_stage("simclr", train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
