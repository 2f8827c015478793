"""Cluster by semantics: train heads so that each image and its nearest neighbors agree (the SCAN loss).

    python scan.py --config_exp configs/scan/scan_digits.yml
    python scan.py --config_exp configs/scan/scan_cifar10.yml num_neighbors=50 run_name=k50
    torchrun --nproc_per_node 4 scan.py --config_exp configs/scan/scan_cifar10.yml

Starts from the pretext model and its neighbor files; the epoch and head with the lowest label-free validation loss
become {root_dir}/{train_db_name}/scan/model.pth.tar. The same command continues an interrupted run. The loss is
usually negative: a consistency (at best 0) minus entropy_weight times an entropy (at best log C).
"""

import sys
from collections.abc import Sequence

from data.features import Unchanged
from data.loaders import NeighborPartner
from system.console import say
from system.distributed import gather
from training.checkpoint import save_weights
from training.run import Run
from utils import cli
from utils import clusters as validation
from utils import stage as inspection
from utils.common_config import (
    get_criterion,
    get_model,
    get_optimizer,
    get_train_dataset,
    get_train_transformations,
    get_val_dataset,
    get_view_loader,
)
from utils.config import TRAINING_KEYS
from utils.pretext import frozen_features, load_train_neighbors, load_val_neighbors


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    p, args = cli.configure(cli.training_parser(__doc__), argv, "scan")
    if args.dry_run:
        return inspection.dry_run(p, *TRAINING_KEYS, "num_classes", script="scan.py", starts_from=p.pretext_model)

    run = Run.start(p, *TRAINING_KEYS, "num_classes", script="scan.py")
    if run.result is not None:
        return validation.report(p, run.result, again=True)
    model = run.runtime.place(get_model(p, p.pretext_model))
    train = get_train_dataset(p, None)
    val = get_val_dataset(p, classes=train.classes)
    partner = NeighborPartner(load_train_neighbors(p, train), p.num_neighbors)
    validator = validation.Validator(p, val, load_val_neighbors(p, val), run.runtime)
    augment = get_train_transformations(p)
    shown, part = train, "default"
    if p.update_cluster_head_only and augment.is_fixed:  # every epoch would compute the same features again
        shown, part = frozen_features(p, model, train, augment, run.runtime), "head"
        augment = Unchanged()
    loader = get_view_loader(p, shown, [augment, augment], run, [None, partner])
    criterion = get_criterion(p)
    forward = run.prepare(model, get_optimizer(p, model))
    run.profile(args.profile)
    say(
        "the loss is usually negative: a consistency (at best 0) minus entropy_weight times an entropy (at best "
        "log C); lower is better"
    )

    for epoch in run.epochs():
        model.train(not p.update_cluster_head_only)
        for anchors, neighbors in run.steps(loader):
            heads = zip(forward(anchors, forward_pass=part), forward(neighbors, forward_pass=part), strict=True)
            losses = [criterion(gather(anchor), gather(neighbor)) for anchor, neighbor in heads]
            run.step(
                sum(loss.total for loss in losses),
                consistency=sum(loss.consistency for loss in losses) / len(losses),
                entropy=sum(loss.entropy for loss in losses) / len(losses),
            )
        best = validator.best_head(model)
        if best.loss < run.values.get("best_loss", float("inf")):
            run.values |= {"best_loss": best.loss, "best_loss_head": best.head, "best_epoch": epoch + 1}
            save_weights(p.scan_model, {"model": model.state_dict(), "head": best.head}, setup="scan")
        run.end_epoch(val_loss=best.loss, head=best.head, **best.monitored)
        validation.warn_of_collapse(best.cluster_sizes, p.num_classes)

    result = validation.final_scores(p, p.scan_model, val, run.runtime) | run.values
    run.finish(result)
    return validation.report(p, result)


if __name__ == "__main__":
    sys.exit(cli.run(main))
