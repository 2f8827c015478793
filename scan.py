"""Cluster by semantics: train heads so that each image and its nearest neighbors agree (the SCAN loss).

    python scan.py --config_exp configs/scan/scan_digits.yml
    python scan.py --config_exp configs/scan/scan_cifar10.yml num_neighbors=10 run_name=k10
    torchrun --nproc_per_node 4 scan.py --config_exp configs/scan/scan_cifar10.yml

Starts from the pretext model and its neighbor files; the epoch and head with the lowest label-free validation loss
become {root_dir}/{train_db_name}/scan/model.pth.tar. The same command continues an interrupted run. The loss is
usually negative: a consistency (at best 0) minus entropy_weight times an entropy (at best log C).
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from clustering.validation import Validator, warn_of_collapse
from data.features import Unchanged
from data.loaders import NeighborPartner
from losses.scan import SCANTerms
from models.finetune import training_mode
from models.pretrained import is_pretrained
from models.weights import save_weights
from system.console import say
from system.distributed import gather
from training.run import Run
from utils import cli, clusters
from utils.common_config import (
    get_criterion,
    get_embedder,
    get_model,
    get_optimizer,
    get_splits,
    get_train_transformations,
    get_view_loader,
)
from utils.mined import load_train_neighbors, load_val_neighbors
from utils.stage import run_stage


def step(
    forward: Callable[[Tensor], list[Tensor]], criterion: Callable[[Tensor, Tensor], SCANTerms], *views: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The SCAN loss of anchors and neighbors, summed over the heads, and a head's mean consistency and entropy."""
    heads = zip(*map(forward, views), strict=True)
    losses = [criterion(gather(anchor), gather(neighbor)) for anchor, neighbor in heads]
    total, consistency, entropy = (sum(terms[1:], terms[0]) for terms in zip(*losses, strict=True))
    return total, consistency / len(losses), entropy / len(losses)


def train(p: Any, run: Run) -> dict[str, Any]:
    """Train what is left of the run; returns its result."""
    model = run.runtime.place(get_model(p, p.pretext_model))
    train_set, val_set = get_splits(p, run)
    partner = NeighborPartner(load_train_neighbors(p, train_set), p.num_neighbors)
    embedder = get_embedder(p, run.runtime)
    validator = Validator(
        val_set, load_val_neighbors(p, val_set), embedder, p.update_cluster_head_only, p.cluster_prior
    )
    augment = get_train_transformations(p)
    shown, part = train_set, "default"
    if p.update_cluster_head_only and augment.is_fixed:  # every epoch would compute the same features again
        features = Path(p.scan_dir) / "features-train.npy"
        shown, part = embedder.under(augment).freeze(model, train_set, features), "head"
        augment = Unchanged()
    loader = get_view_loader(p, shown, [augment, augment], run, [None, partner])
    criterion = get_criterion(p)
    forward = partial(run.prepare(model, get_optimizer(p, model), loader), forward_pass=part)
    say(
        "the loss is usually negative: a consistency (at best 0) minus entropy_weight times an entropy (at best "
        "log C); lower is better"
    )

    for _ in run.epochs():
        if p.update_cluster_head_only:
            model.eval()
        else:
            training_mode(model, is_pretrained(p.backbone))
        for batch in run.steps(loader):
            total, consistency, entropy = step(forward, criterion, *batch.views)
            run.step(total, consistency=consistency, entropy=entropy)
        best = validator.best_head(run.model)
        if run.improved(best.loss):
            run.values["best_loss_head"] = best.head
            save_weights(p.scan_model, {"model": run.model.state_dict(), "head": best.head}, setup="scan")
        run.end_epoch(val_loss=best.loss, head=best.head, **best.monitored)
        warn_of_collapse(best.cluster_sizes, p.num_classes, p.cluster_prior)

    return clusters.final_scores(p, p.scan_model, val_set, run.runtime) | run.values


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_stage("scan", train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
