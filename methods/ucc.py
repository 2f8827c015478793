"""Cluster from counts (UCC): learn how many classes a bag of images holds, then K-means on the features.

    python -m methods.ucc --config_exp configs/methods/ucc_digits.yml
    python -m methods.ucc --config_exp configs/methods/ucc_mnist.yml
    python eval.py --config_exp configs/methods/ucc_digits.yml

Weakly supervised, by definition: labels are read, but only to count the classes of bags (data/bags.py). Needs no
earlier stage. The encoder and the centroids as a linear head become {root_dir}/{train_db_name}/ucc/model.pth.tar.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from clustering.kmeans import kmeans_head
from data.bags import BagLoader, Bags
from models.ucc import Encoder, UCCModel, standardize
from models.weights import save_weights
from system.console import say, warn
from system.distributed import gather, on_main
from system.errors import ConfigError, UserError
from training.run import Run
from utils import cli, clusters
from utils.common_config import (
    get_criterion,
    get_embedder,
    get_model,
    get_optimizer,
    get_splits,
    get_train_transformations,
    get_val_transformations,
)
from utils.stage import run_stage

UNSEEN_STEPS = 20  # of bags of validation images, whose counts are predicted in the end


def step(
    forward: Callable[[Tensor], list[Tensor]], criterion: Callable[..., Tensor], views: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss of a batch of bags, and the share of them whose count is right."""
    logits, decoded = map(gather, forward(views))
    loss = criterion(logits, counts, decoded, gather(standardize(views)))
    return loss, (logits.argmax(1) == counts).float().mean()


def train(
    p: Any,
    run: Run,
    *,
    bag_size: Annotated[int, Field(ge=1, le=4096)] = 32,
    most: Annotated[int, Field(ge=2, le=100)] = 4,
) -> dict[str, Any]:
    """Train what is left of the run; returns its result.

    Args:
        bag_size: images of a bag.
        most: classes that a bag holds at most.
    """
    train_set, val_set = get_splits(p, run)
    views = get_train_transformations(p)
    loader = _bag_loader(p, run, train_set, views, bag_size, most)
    unseen = _unseen_bags(p, run, val_set, bag_size, most) if val_set is not train_set else None
    criterion = get_criterion(p)
    clustering = get_model(p)
    if not isinstance(clustering.backbone, Encoder) or clustering.backbone.side != views.size:
        raise ConfigError(f"backbone is {p.backbone}, but for views of {views.size} pixels UCC's is ucc/{views.size}")
    model = run.runtime.place(UCCModel(clustering.backbone, bag_size, most))
    forward = run.prepare(model, get_optimizer(p, model), loader)
    counts = loader.counts.to(run.runtime.device)
    say(f"labels are read to count the classes of {loader.num_bags} bags of {bag_size} images a step, nothing else")

    for _ in run.epochs():
        model.train()
        for batch in run.steps(loader):
            loss, right = step(forward, criterion, batch.views[0], counts)
            run.step(loss, bag_acc=right)
        run.end_epoch()

    features = get_embedder(p, run.runtime).embed(model.encoder, train_set)
    weight, bias = on_main(lambda: kmeans_head(features, p.num_classes, p.seed))
    head = clustering.cluster_head[0]
    head.weight, head.bias = nn.Parameter(weight), nn.Parameter(bias)
    save_weights(p.ucc_model, {"model": clustering.state_dict(), "head": 0}, setup="ucc")
    counted = {"unseen_bag_acc": count_accuracy(model, unseen, run.runtime)} if unseen else {}
    scores = clusters.final_scores(p, p.ucc_model, val_set, run.runtime)
    return {"loss": run.metrics[-1]["loss"]} | counted | scores


def _unseen_bags(p: Any, run: Run, val_set: Any, bag_size: int, most: int) -> BagLoader | None:
    """Bags of validation images, whose counts are predicted in the end; None, which is said, where none can be made."""
    try:
        if len(val_set) < p.batch_size:
            raise UserError(f"there are {len(val_set)} validation images, fewer than batch_size {p.batch_size}")
        return _bag_loader(p, run, val_set, get_val_transformations(p), bag_size, most)
    except UserError as error:
        warn(f"counts of unseen bags will not be predicted: {error}")
        return None


@torch.no_grad()
def count_accuracy(model: UCCModel, loader: BagLoader, runtime: Any) -> float:
    """The share of bags whose count is predicted."""
    model.eval()
    counts, right = loader.counts.to(runtime.device), []
    for epoch in range(-(-UNSEEN_STEPS // len(loader))):
        for batch in loader.epoch(epoch):
            logits = gather(runtime.forward(model, batch.views[0], runtime.inference)[0])
            right.append((logits.argmax(1) == counts).float().mean())
    accuracy = float(torch.stack(right).mean())
    say(f"counts of unseen bags: {100 * accuracy:.1f} % right, by chance {100 / logits.shape[1]:.1f} %")
    return accuracy


def _bag_loader(p: Any, run: Run, dataset: Any, strategy: Any, bag_size: int, most: int) -> BagLoader:
    bags = Bags(dataset, bag_size, most, run.key)
    return BagLoader(bags, dataset, [strategy], p.batch_size, run.runtime, run.key, num_workers=p.num_workers)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the method; returns the exit code."""
    return run_stage("ucc", train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
