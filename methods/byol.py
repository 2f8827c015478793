"""Learn features by predicting one view from another (BYOL), then mine every image's nearest neighbors.

    python -m methods.byol --config_exp configs/pretext/byol_digits.yml
    python -m methods.byol --config_exp configs/pretext/byol_cifar10.yml
    python scan.py --config_exp configs/scan/scan_digits.yml pretext_run=byol run_name=byol

An online network predicts what its own moving average, the target, makes of the other view
(https://arxiv.org/abs/2006.07733). The target is the model: its normalized outputs are mined. Writes what simclr.py
writes; the same command continues an interrupted run.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from models.byol import OnlineNetwork
from system.distributed import gather, world_size
from system.sections import Fraction
from training.batchnorm import synchronize_batchnorm
from training.ema import follow, rising_momentum
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

Network = Callable[[Tensor], Tensor]


def step(forward: Network, target: Network, criterion: Callable[[Tensor, Tensor], Tensor], *views: Tensor) -> Tensor:
    """The BYOL loss of both views of a batch, each of which has BatchNorm statistics of its own."""
    with torch.no_grad():
        targets = torch.stack([target(view) for view in views], dim=1)
    predictions = torch.stack([forward(view) for view in views], dim=1)
    return criterion(gather(predictions), gather(targets))


def train(
    p: Any,
    run: Run,
    momentum: Fraction = 0.996,
    predictor_rate: Annotated[float, Field(gt=0, le=1000)] = 10.0,
) -> dict[str, Any]:
    """Train what is left of the run; returns its result.

    Args:
        momentum: share of the target that stays at the first step; it rises to 1 along a cosine.
        predictor_rate: learning rate of the predictor, times that of the rest.
    """
    train_set, mined, val_set = pretext.get_splits_to_mine(p, run)
    augment = get_train_transformations(p)
    loader = get_view_loader(p, train_set, [augment, augment], run)
    criterion = get_criterion(p)
    target = run.runtime.place(get_model(p)).requires_grad_(False)
    online = run.runtime.place(OnlineNetwork(target, p.model_kwargs.features_dim)).requires_grad_(True)
    if world_size() > 1:
        target = synchronize_batchnorm(target)
    optimizer = get_optimizer(p, online, rate_factors={"predictor.": predictor_rate})
    forward = run.prepare(online, optimizer, loader, target=target)
    monitor = pretext.KnnMonitor(p, target, mined, val_set, run.runtime)
    num_steps = p.epochs * len(loader)

    def aim(view: Tensor) -> Tensor:
        return run.runtime.forward(target, view, run.runtime.training)

    for epoch in run.epochs():
        online.train()
        target.train()  # by the batch's statistics, as the online network
        for batch in run.steps(loader):
            run.step(step(forward, aim, criterion, *batch.views))
            follow(target, online, rising_momentum(momentum, run.num_steps, num_steps))
        run.end_epoch(knn_acc=monitor.accuracy() if monitor.due(epoch) else None)

    return pretext.save_and_mine(p, target, run, mined, val_set)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_stage("byol", train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
