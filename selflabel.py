"""Refine the clusters: where the model is confident, its own prediction is the label of a strongly augmented view.

    python selflabel.py --config_exp configs/selflabel/selflabel_digits.yml
    python selflabel.py --config_exp configs/selflabel/selflabel_cifar10.yml confidence_threshold=0.95 run_name=t95

Starts from the scan model's best head, or with starts_from: candidates from the clustering of features that was chosen,
whose network trained_layers, patience and a low learning rate change little. model.pth.tar is the last epoch, as
published; model-best.pth.tar is the epoch with the lowest label-free validation loss. With criterion: fixmatch images
whose neighbors agree keep the clusters that they begin with as labels. The same command continues an interrupted run.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clustering.validation import HeadScores, Validator, warn_of_collapse, warn_of_lost_confidence
from losses.fixmatch import FixMatch
from losses.selflabel import ConfidenceBasedCE, Labels
from models.finetune import train_last, training_mode
from models.pretrained import is_pretrained
from models.weights import save_weights
from system.console import say
from system.distributed import gather
from system.errors import NothingConfidentError
from training.ema import EMA
from training.record import read_record
from training.run import Run
from utils import cli, clusters
from utils.common_config import (
    add_labeled,
    get_criterion,
    get_embedder,
    get_optimizer,
    get_splits,
    get_train_transformations,
    get_val_transformations,
    get_view_loader,
)
from utils.mined import find_val_neighbors
from utils.stage import run_stage


def step(
    forward: Callable[[Tensor], list[Tensor]], criterion: ConfidenceBasedCE, plain: Tensor, strong: Tensor
) -> tuple[Tensor, Labels]:
    """The loss of the strong views against what the plain ones say of themselves, and what that is."""
    with torch.no_grad():
        labels = criterion.label(gather(forward(plain)[0]))
    return criterion.loss(labels, gather(forward(strong)[0])), labels


def step_with_labels(
    forward: Callable[[Tensor], list[Tensor]],
    criterion: FixMatch,
    plain: Tensor,
    strong: Tensor,
    labeled: Tensor,
    targets: Tensor,
) -> tuple[Tensor, Labels]:
    """As `step`, with views of images that have targets; they go through the network with the strong ones."""
    with torch.no_grad():
        labels = criterion.label(gather(forward(plain)[0]))
    strong_logits, logits = forward(torch.cat([strong, labeled]))[0].split([len(strong), len(labeled)])
    return criterion.loss(labels, gather(strong_logits), gather(logits), gather(targets)), labels


def train(p: Any, run: Run) -> dict[str, Any]:
    """Train what is left of the run; returns its result."""
    train_set, val_set = get_splits(p, run)
    model = run.runtime.place(clusters.load_start(p, train_set))
    pretrained = is_pretrained(p.backbone)
    if p.trained_layers:
        train_last(model.backbone, p.trained_layers)
    neighbors = find_val_neighbors(p, val_set, model, run.runtime)
    validator = Validator(val_set, neighbors, get_embedder(p, run.runtime), cluster_prior=p.cluster_prior)
    augment = get_train_transformations(p)
    loader: Any = get_view_loader(p, train_set, [get_val_transformations(p), augment], run)
    criterion = get_criterion(p)
    with_labels = isinstance(criterion, FixMatch)
    if with_labels:
        reliable = clusters.find_reliable(p, model, train_set, run.runtime)
        loader = add_labeled(p, loader, train_set, augment, run, *reliable)
    take = step_with_labels if with_labels else step
    start = validator.best_head(model)
    run.values["scan_loss"] = start.loss
    parts = {"ema": EMA(model.parameters(), p.ema_alpha)} if p.use_ema else {}
    if pretrained:
        run.note(engine=read_record(Path(p.pretext_dir)).get("engine"))  # for whatever uses the models
    forward = run.prepare(model, get_optimizer(p, model), loader, **parts)
    say(
        "the validation loss is usually negative: a consistency (at best 0) minus an entropy (at best log C); it may "
        "rise while clusters become better"
    )

    for epoch in run.epochs():
        training_mode(model, pretrained)
        for batch in run.steps(loader):
            loss, labels = take(forward, criterion, *batch.views, *batch.labeled)
            run.totals.maximum(highest_confidence=labels.probability.max())
            run.totals.count(confident=labels.confident.sum(), confident_per_cluster=labels.counts)
            run.step(loss, skip=None if with_labels else ~labels.confident.any())
            for average in parts.values():
                average.update()
        if run.totals.read("confident") == 0 and not with_labels:
            highest = run.totals.read("highest_confidence")
            raise NothingConfidentError(nothing_confident(p.confidence_threshold, epoch, highest))
        scores = validator.best_head(run.model)
        if run.improved(scores.loss):
            save_weights(Path(p.selflabel_dir) / "model-best.pth.tar", run.model.state_dict(), setup="selflabel")
        run.values |= {"last_loss": scores.loss, "emptied": num_used(start) - num_used(scores)}
        if p.patience:
            losses = [start.loss, *(line["val_loss"] for line in run.metrics), scores.loss]
            if run.values["emptied"] > 0:
                run.end("clusters emptied")
            elif len(losses) - 1 - losses.index(min(losses)) >= p.patience:
                run.end(f"no lower validation loss for {p.patience} epochs")
        run.end_epoch(val_loss=scores.loss, **scores.monitored)
        warn_of_collapse(scores.cluster_sizes, p.num_classes, p.cluster_prior)
        warn_of_lost_confidence([line["confident"] for line in run.metrics])

    save_weights(p.selflabel_model, run.model.state_dict(), setup="selflabel")
    return clusters.final_scores(p, p.selflabel_model, val_set, run.runtime) | run.values


def num_used(scores: HeadScores) -> int:
    """How many clusters hold a validation image."""
    return int((scores.cluster_sizes > 0).sum())


def nothing_confident(threshold: float, epoch: int, highest: float) -> str:
    """Why an epoch without a confident sample ends the run, and what would help."""
    return (
        f"no sample was more confident than confidence_threshold={threshold} in epoch {epoch + 1}, so there is nothing "
        f"to learn from; the highest confidence was {highest:.4f}, so samples appear below that: for example "
        f"confidence_threshold={0.98 * highest:.3g} overwrite=true"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_stage("selflabel", train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
