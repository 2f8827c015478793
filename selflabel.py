"""Refine the clusters: where the model is confident, its own prediction is the label of a strongly augmented view.

    python selflabel.py --config_exp configs/selflabel/selflabel_digits.yml
    python selflabel.py --config_exp configs/selflabel/selflabel_cifar10.yml confidence_threshold=0.95 run_name=t95

Starts from the scan model's best head. model.pth.tar is the last epoch, as published; model-best.pth.tar is the epoch
with the lowest label-free validation loss. The same command continues an interrupted run.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from system.distributed import gather
from system.errors import NothingConfidentError
from training.checkpoint import save_weights
from training.ema import EMA
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
    get_val_transformations,
    get_view_loader,
)
from utils.config import TRAINING_KEYS
from utils.pretext import find_val_neighbors


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    p, args = cli.configure(cli.training_parser(__doc__), argv, "selflabel")
    if args.dry_run:
        return inspection.dry_run(p, *TRAINING_KEYS, "num_classes", script="selflabel.py", starts_from=p.scan_model)

    run = Run.start(p, *TRAINING_KEYS, "num_classes", script="selflabel.py")
    if run.result is not None:
        return validation.report(p, run.result, again=True)
    model = run.runtime.place(get_model(p, p.scan_model))
    train = get_train_dataset(p, None)
    val = get_val_dataset(p, classes=train.classes)
    validator = validation.Validator(p, val, find_val_neighbors(p, val, model, run.runtime), run.runtime)
    loader = get_view_loader(p, train, [get_val_transformations(p), get_train_transformations(p)], run)
    criterion = get_criterion(p)
    run.values["scan_loss"] = validator.best_head(model).loss
    parts = {"ema": EMA(model.parameters(), p.ema_alpha)} if p.use_ema else {}
    forward = run.prepare(model, get_optimizer(p, model), **parts)
    best_model = Path(p.selflabel_dir) / "model-best.pth.tar"
    run.profile(args.profile)

    for epoch in run.epochs():
        model.train()
        for plain, strong in run.steps(loader):
            with torch.no_grad():
                plain_logits = gather(forward(plain)[0])
            strong_logits = gather(forward(strong)[0])
            confident = criterion.confident(plain_logits)
            run.totals.maximum(highest_confidence=plain_logits.softmax(1).max())
            run.totals.count(confident=confident.sum(), confident_per_cluster=criterion.count(plain_logits))
            run.step(criterion(plain_logits, strong_logits), skip=~confident.any())
            for average in parts.values():
                average.update()
        if run.totals.read("confident") == 0:
            highest = run.totals.read("highest_confidence")
            raise NothingConfidentError(nothing_confident(p.confidence_threshold, epoch, highest))
        scores = validator.best_head(model)
        if scores.loss < run.values.get("best_loss", float("inf")):
            run.values |= {"best_loss": scores.loss, "best_epoch": epoch + 1}
            save_weights(best_model, model.state_dict(), setup="selflabel")
        run.values["last_loss"] = scores.loss
        run.end_epoch(val_loss=scores.loss, **scores.monitored)
        validation.warn_of_collapse(scores.cluster_sizes, p.num_classes)

    save_weights(p.selflabel_model, model.state_dict(), setup="selflabel")
    result = validation.final_scores(p, p.selflabel_model, val, run.runtime) | run.values
    run.finish(result)
    return validation.report(p, result)


def nothing_confident(threshold: float, epoch: int, highest: float) -> str:
    """Why an epoch without a confident sample ends the run, and what would help."""
    return (
        f"no sample was more confident than confidence_threshold={threshold} in epoch {epoch + 1}, so there is nothing "
        f"to learn from; the highest confidence was {highest:.4f}, so samples appear below that: for example "
        f"confidence_threshold={0.98 * highest:.3g} overwrite=true"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
