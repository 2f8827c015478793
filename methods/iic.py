"""Cluster from scratch (IIC): an image and its transform should tell each other's cluster, and all be in use.

    python -m methods.iic --config_exp configs/methods/iic_digits.yml
    python -m methods.iic --config_exp configs/methods/iic_cifar10.yml run_name=seed1 seed=1
    python eval.py --config_exp configs/methods/iic_digits.yml

Needs no earlier stage. An epoch is one pass over the images; passes that train the heads of more clusters (A) and
those that train the heads of num_classes clusters (B) take turns. The head B with the lowest loss of an epoch becomes
{root_dir}/{train_db_name}/iic/model.pth.tar. The loss is minus a mutual information: 0 is nothing, -log K the best.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from models.iic import TwoHeads
from models.weights import save_weights
from system.console import say, warn
from system.distributed import gather
from system.errors import ConfigError
from system.sections import NumClusters, NumHeads, Positive
from training.run import Run
from utils import cli, clusters
from utils.common_config import (
    get_criterion,
    get_model,
    get_optimizer,
    get_splits,
    get_train_transformations,
    get_val_transformations,
    get_view_loader,
)
from utils.stage import run_stage

LITTLE = 0.02  # of log K: a mutual information that is above the one by chance by less is as good as none


def step(
    forward: Callable[[Tensor], list[Tensor]],
    criterion: Callable[[Tensor, Tensor], Tensor],
    trained: slice,
    plain: Tensor,
    *transformed: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss of the heads in `trained`, the losses of all, `[heads]`, and the one that chance gives.

    The plain views count once for each transform. Heads that are not trained take part with a zero gradient, since
    all ranks must send the same ones. The loss by chance is that of the first trained head with each image paired with
    the transform of another: in a batch, unrelated clusters too seem to tell something.
    """
    pairs = []
    for logits, others in zip(forward(plain), forward(torch.cat(transformed)), strict=True):
        views = [gather(view) for view in others.chunk(len(transformed))]
        pairs.append((gather(logits).repeat(len(views), 1), torch.cat(views)))
    losses = torch.stack([criterion(*pair) for pair in pairs])
    one, other = (logits.detach() for logits in pairs[trained][0])
    return losses[trained].mean() + 0 * losses.sum(), losses.detach(), criterion(one, other.roll(1, 0))


def train(
    p: Any,
    run: Run,
    *,
    over_clusters: NumClusters = 70,
    num_over_heads: NumHeads = 5,
    over_passes: Positive = 1,
    passes: Positive = 1,
    num_transforms: Positive = 3,
) -> dict[str, Any]:
    """Train what is left of the run; returns its result.

    Args:
        over_clusters: clusters of the heads A.
        num_over_heads: how many heads A there are.
        over_passes: epochs in a row that train A.
        passes: epochs in a row that train B.
        num_transforms: transforms of each image of a batch.
    """
    if over_clusters < p.num_classes:
        raise ConfigError(
            f"method_kwargs.over_clusters is {over_clusters}, but the heads A need at least as many clusters as the "
            f"heads B, num_classes={p.num_classes}; a multiple of it is usual"
        )
    if p.epochs <= over_passes:
        raise ConfigError(
            f"epochs is {p.epochs}, and the first method_kwargs.over_passes={over_passes} of them train the heads A "
            "alone; more epochs are needed, or the model would be a head that nothing has trained"
        )
    train_set, val_set = get_splits(p, run)
    augment = get_train_transformations(p)
    loader = get_view_loader(p, train_set, [get_val_transformations(p), *[augment] * num_transforms], run)
    criterion = get_criterion(p)
    model = run.runtime.place(TwoHeads(get_model(p), over_clusters, num_over_heads))
    forward = run.prepare(model, get_optimizer(p, model), loader)
    say("the loss is minus the mutual information of two views' clusters: 0 is nothing, -log K the best")

    for epoch in run.epochs():
        is_over = epoch % (over_passes + passes) < over_passes
        trained = slice(0, num_over_heads) if is_over else slice(num_over_heads, None)
        model.train()
        for batch in run.steps(loader):
            loss, losses, by_chance = step(forward, criterion, trained, *batch.views)
            named = {f"head_{i}": loss for i, loss in enumerate(losses[num_over_heads:])}
            run.step(loss, over_loss=losses[:num_over_heads].mean(), by_chance=by_chance, **named)
        means = run.totals.metrics(len(loader))
        best = min(range(p.num_heads), key=lambda head: means[f"head_{head}"])
        if run.improved(means[f"head_{best}"]):
            run.values["best_loss_head"] = best
            save_weights(p.iic_model, {"model": model.clustering.state_dict(), "head": best}, setup="iic")
        run.end_epoch(trained="A" if is_over else "B", head=best)
        warn_of_no_information(means["by_chance"] - means["loss"], over_clusters if is_over else p.num_classes, epoch)

    return clusters.final_scores(p, p.iic_model, val_set, run.runtime) | run.values


def warn_of_no_information(information: float, num_clusters: int, epoch: int) -> None:
    """Say when an epoch's mutual information stayed near that of unrelated views, and what usually is the cause."""
    if information < LITTLE * math.log(num_clusters):
        warn(
            f"in epoch {epoch + 1} the views said almost nothing about each other's cluster "
            f"({max(information, 0):.4f} of {math.log(num_clusters):.2f} nats beyond chance); if that continues, "
            "likely causes are the learning rate, views that have too little in common (augmentation_kwargs), batches "
            "too small for this many clusters, or colors that give the images away (backbone=sobel/NAME)"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the method; returns the exit code."""
    return run_stage("iic", train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
