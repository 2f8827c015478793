"""Learn features with labels, as a reference for what is learned without; then mine every image's nearest neighbors.

    python -m methods.supervised --config_exp configs/pretext/supervised_digits.yml
    python -m methods.supervised --config_exp configs/pretext/supervised_digits.yml method_kwargs.label_fraction=0.1 \\
        run_name=supervised_10
    python eval.py --config_exp configs/pretext/supervised_digits.yml

Uses labels by definition: all of them, or a fraction of every class's. Writes what simclr.py writes; eval.py also gives
the accuracy of the classifier. The same command continues an interrupted run. With method_kwargs.start=FILE a trained
network learns on: label.py --finetune does so.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from models.finetune import train_last, training_mode
from models.pretrained import is_pretrained
from system.console import say, warn
from system.distributed import gather
from system.errors import UserError
from system.runtime import generator
from system.sections import GivenPath, Share
from system.text import shown
from training.run import Run
from utils import cli, pretext
from utils.common_config import (
    get_criterion,
    get_model,
    get_optimizer,
    get_splits,
    get_train_transformations,
    get_view_loader,
)
from utils.stage import run_stage


def step(
    forward: Callable[[Tensor], Tensor],
    criterion: Callable[[Tensor, Tensor], Tensor],
    view: Tensor,
    targets: Tensor,
) -> tuple[Tensor, Tensor]:
    """The loss of a batch, and its accuracy."""
    logits, targets = gather(forward(view)), gather(targets)
    return criterion(logits, targets), (logits.argmax(1) == targets).float().mean()


def choose_labeled(targets: Tensor, fraction: float, *key: Any) -> Tensor:
    """Image numbers, rising: of every class a fraction, rounded, at least one; drawn by the key.

    `targets` are int64 `[N]`, -1 where unknown; those are left out. A larger fraction holds what a smaller one does.
    """
    chosen = []
    for label in targets[targets >= 0].unique().tolist():
        rows = (targets == label).nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=generator(*key, "labelled", label))
        chosen.append(rows[order[: max(1, round(fraction * len(rows)))]])
    return torch.cat(chosen).sort().values


def require_labels(dataset: Any, num_classes: int) -> None:
    """Raise UserError where there are no labels, or more classes than the config says; warn of missing ones."""
    if not dataset.has_labels:
        raise UserError(
            f"supervised training needs labels, and the training split of {dataset.name} has none; give a labeled "
            "data set, or take a method that needs none, such as simclr.py"
        )
    num_found = int(dataset.targets.max()) + 1
    if num_found > num_classes:
        raise UserError(
            f"num_classes is {num_classes}, but the training split of {dataset.name} has {num_found} classes; set "
            f"num_classes={num_found}"
        )
    counts = dataset.targets[dataset.targets >= 0].bincount(minlength=num_classes)
    if missing := (counts == 0).nonzero().flatten().tolist():
        names = [*dataset.classes, *map(str, range(len(dataset.classes), num_classes))]
        words = ", ".join(shown(names[label]) for label in missing[:5]) + (", …" if len(missing) > 5 else "")
        warn(f"there is no labeled training image of {len(missing)} classes, which are never predicted: {words}")


def train(p: Any, run: Run, label_fraction: Share = 1.0, start: GivenPath | None = None) -> dict[str, Any]:
    """Train what is left of the run; returns its result.

    Args:
        label_fraction: share of every class's labels that is used; images without are not trained on.
        start: a model of such a run, whose network and classifier learn on; of a pretrained backbone BatchNorm keeps
            its statistics, and `trained_layers` says how many of its last groups of layers change.
    """
    train_set, val_set = get_splits(p, run)
    pretext.num_to_mine(p, train_set, val_set)  # what would fail after training fails before it
    require_labels(train_set, p.num_classes)
    rows = choose_labeled(train_set.targets, label_fraction, *run.key)
    say(f"trained with the labels of {len(rows):,} images")
    loader = get_view_loader(p, train_set, [get_train_transformations(p)], run, rows=rows)
    criterion = get_criterion(p)
    targets = train_set.targets.to(run.runtime.device)
    model = run.runtime.place(get_model(p, start))
    pretrained = bool(start) and is_pretrained(p.backbone)
    if p.trained_layers:
        train_last(model.backbone, p.trained_layers)
    forward = run.prepare(model, get_optimizer(p, model), loader)
    monitor = pretext.KnnMonitor(p, run.model, train_set, val_set, run.runtime)

    for epoch in run.epochs():
        training_mode(model, pretrained)
        for batch in run.steps(loader):
            loss, train_acc = step(forward, criterion, batch.views[0], targets[batch.indices])
            run.step(loss, train_acc=train_acc)
        run.end_epoch(knn_acc=monitor.accuracy() if monitor.due(epoch) else None)

    run.describe(class_names=list(train_set.classes))  # the order of the outputs, also for a folder that lacks a class
    return pretext.save_and_mine(p, run.model, run, train_set, val_set)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_stage("supervised", train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
