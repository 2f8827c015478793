"""Learn features by telling every image from all others (memory bank), then mine every image's nearest neighbors.

    python -m methods.instdisc --config_exp configs/pretext/instdisc_digits.yml
    python -m methods.instdisc --config_exp configs/pretext/instdisc_cifar10.yml
    python scan.py --config_exp configs/scan/scan_digits.yml pretext_run=instdisc run_name=instdisc

One view of every image against a bank with a vector for each (https://arxiv.org/abs/1805.01978): a softmax over all of
them (criterion: instdisc), or noise-contrastive estimation with some (criterion: instdisc-nce). Writes what simclr.py
writes; the same command continues an interrupted run.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from system.distributed import gather, slice_of
from system.errors import UserError
from system.runtime import generator
from system.sections import Fraction
from system.transfer import send
from training.memory_bank import MemoryBank
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


def step(
    forward: Callable[[Tensor], Tensor],
    criterion: Any,
    bank: MemoryBank,
    view: Tensor,
    indices: Tensor,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss of a batch, and its features `[B, D]` for the bank; `noise [b, m]` is what an estimate draws.

    Every rank compares its own images; the mean is over all.
    """
    features = forward(view)
    if noise is None:
        losses = criterion(features, bank.vectors, indices)
    else:
        scores = criterion.scores(features, bank.vectors, torch.cat([indices[:, None], noise], dim=1))
        if bank.scale is None:
            bank.scale = len(bank.vectors) * gather(scores.detach()).mean()
        losses = criterion(scores, len(bank.vectors), bank.scale)
    return gather(losses).mean(), gather(features.detach())


def draw_noise(num_images: int, batch_size: int, num_noise: int, *key: Any) -> Tensor | None:
    """Images `[b, m]` to tell this rank's own from, drawn for the global batch; None where all are compared."""
    if not num_noise:
        return None
    return torch.randint(num_images, (batch_size, num_noise), generator=generator(*key, "noise"))[slice_of(batch_size)]


def require_noise(criterion: nn.Module, num_images: int) -> None:
    """Raise UserError where more noise is asked for than there are images."""
    num_noise = getattr(criterion, "num_noise", 0)
    if num_noise > num_images:
        raise UserError(
            f"criterion_kwargs.num_noise is {num_noise}, but the training split has {num_images} images; use at most "
            f"{num_images}, or criterion: instdisc, which compares all"
        )


def train(p: Any, run: Run, bank_momentum: Fraction = 0.5) -> dict[str, Any]:
    """Train what is left of the run; returns its result.

    Args:
        bank_momentum: share of an image's vector that stays when its features are seen anew.
    """
    train_set, mined, val_set = pretext.get_splits_to_mine(p, run)
    loader = get_view_loader(p, train_set, [get_train_transformations(p)], run)
    criterion = get_criterion(p)
    require_noise(criterion, len(train_set))
    model = run.runtime.place(get_model(p))
    start = generator(*run.key, "bank")
    bank = MemoryBank(len(train_set), p.model_kwargs.features_dim, bank_momentum, start).to(run.runtime.device)
    forward = run.prepare(model, get_optimizer(p, model), loader, bank=bank)
    monitor = pretext.KnnMonitor(p, run.model, mined, val_set, run.runtime)

    for epoch in run.epochs():
        model.train()
        for batch in run.steps(loader):
            noise = draw_noise(
                len(train_set), p.batch_size, criterion.num_noise, *run.key, run.epoch, run.step_in_epoch
            )
            if noise is not None:
                noise = send(noise, run.runtime.device)
            loss, features = step(forward, criterion, bank, batch.views[0], batch.indices, noise)
            run.step(loss)
            bank.update(gather(batch.indices), features)
        run.end_epoch(knn_acc=monitor.accuracy() if monitor.due(epoch) else None)

    return pretext.save_and_mine(p, run.model, run, mined, val_set)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_stage("instdisc", train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
