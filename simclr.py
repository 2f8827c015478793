"""Learn features without labels (SimCLR), then mine every image's nearest neighbors.

    python simclr.py --config_exp configs/pretext/simclr_digits.yml
    python simclr.py --config_exp configs/pretext/simclr_cifar10.yml epochs=100 run_name=short
    python simclr.py --config_exp configs/pretext/simclr_cifar10.yml --mine_only --model released.pth.tar
    torchrun --nproc_per_node 8 simclr.py --config_exp configs/pretext/simclr_cifar10.yml

Writes model.pth.tar and topk-{train,val}-neighbors.npy to {root_dir}/{train_db_name}/pretext. The same command
continues an interrupted run.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch

from system.console import say
from system.distributed import gather
from training.checkpoint import save_weights
from training.run import Run
from utils import cli, pretext
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    parser = cli.training_parser(__doc__)
    parser.add_argument("--mine_only", action="store_true", help="train nothing; mine with the weights of --model")
    parser.add_argument("--model", metavar="FILE", help="weights to mine with (default: those in the folder)")
    p, args = cli.configure(parser, argv, "simclr")
    if args.mine_only:
        return pretext.mine_only(p, args.model)
    if args.dry_run:
        return inspection.dry_run(p, *TRAINING_KEYS, script="simclr.py")

    run = Run.start(p, *TRAINING_KEYS, script="simclr.py")
    if run.result is not None:
        return pretext.report(p, run.result, again=True)
    train = get_train_dataset(p, None, split="train+unlabeled")
    val = get_val_dataset(p, classes=train.classes)
    mined = pretext.scan_split(p, train)
    pretext.num_to_mine(p, mined, val)  # what would fail after training fails before it
    augment = get_train_transformations(p)
    loader = get_view_loader(p, train, [augment, augment], run)
    criterion = get_criterion(p)
    model = run.runtime.place(get_model(p))
    forward = run.prepare(model, get_optimizer(p, model))
    monitor = pretext.KnnMonitor(p, model, mined, val, run.runtime)
    run.profile(args.profile)

    for epoch in run.epochs():
        model.train()
        for first, second in run.steps(loader):
            features = gather(forward(torch.cat([first, second])).unflatten(0, (2, -1)).transpose(0, 1))
            run.step(criterion(features))
        run.end_epoch(knn_acc=monitor.accuracy() if monitor.due(epoch) else None)

    save_weights(p.pretext_model, model.state_dict(), setup="simclr")
    say(f"the model is {p.pretext_model}")
    result: dict[str, Any] = {"loss": run.metrics[-1]["loss"]}
    result |= pretext.mine(p, model, run.runtime, mined, val)
    run.finish(result)
    return pretext.report(p, result)


if __name__ == "__main__":
    sys.exit(cli.run(main))
