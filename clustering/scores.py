"""Scores of clusters against labels: ACC by Hungarian matching, NMI, ARI, AMI, Top-5.

Everything is one pass over the samples in blocks: time and memory grow with N·C, never with N² or C² passes.
"""

from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from clustering.agreement import agreement
from system.errors import UserError

BLOCK_BYTES = {"cpu": 8 << 20, "other": 256 << 20}  # what a block gathers: fits the CPU's cache, fills a GPU
TOP = 5


def contingency(clusters: Tensor, targets: Tensor, num_clusters: int, num_classes: int) -> Tensor:
    """Return how many samples of each class each cluster holds, int64 [C, K] on the device of `clusters` [N].

    Samples without a label (target -1) are left out. Raises UserError for a target that is not a class.
    """
    targets = targets.to(clusters.device, torch.int64)
    if len(targets) and int(targets.max()) >= num_classes:
        raise UserError(
            f"the data set has class number {int(targets.max())}, but only {num_classes} classes are expected; "
            "set num_classes to the number of classes, or correct the labels"
        )
    known = targets >= 0
    cells = clusters[known].to(torch.int64) * num_classes + targets[known]
    return torch.bincount(cells, minlength=num_clusters * num_classes).view(num_clusters, num_classes)


def match(table: Tensor | np.ndarray) -> list[tuple[int, int]]:
    """Return the (cluster, class) pairs, min(C, K) of them, that agree on most samples of a table [C, K].

    This is the Hungarian matching on the full table; clusters or classes beyond min(C, K) stay unmatched.
    """
    clusters, classes = linear_sum_assignment(torch.as_tensor(table).cpu().numpy(), maximize=True)
    return [(int(cluster), int(label)) for cluster, label in zip(clusters, classes, strict=True)]


def score_clusters(clusters: Tensor, targets: Tensor, num_clusters: int, num_classes: int) -> dict[str, Any]:
    """Score hard assignments int64 [N] against targets int64 [N] (-1 unknown, left out).

    Returns the fractions acc (unmatched clusters are wrong), nmi (arithmetic), ari and ami (of the raw clusters), the
    `matching` as (cluster, class) pairs, num_samples (with a label), `confusion` (the table int64 [C, K] as NumPy
    array), and with more clusters than classes acc_many_to_one, where each cluster takes its most frequent class.
    Raises UserError when no sample has a label.
    """
    table = contingency(clusters, targets, num_clusters, num_classes).cpu().numpy()
    num_samples = int(table.sum())
    if num_samples == 0:
        raise UserError("no sample has a label, so clusters cannot be scored; give a labeled validation set")
    matching = match(table)
    scores: dict[str, Any] = {"acc": sum(int(table[pair]) for pair in matching) / num_samples}
    if num_clusters > num_classes:
        scores["acc_many_to_one"] = int(table.max(1).sum()) / num_samples
    return scores | agreement(table) | {"matching": matching, "num_samples": num_samples, "confusion": table}


def score_classes(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Score a classifier's logits [N, K] against targets int64 [N] (-1 unknown, left out): acc and top5.

    Nothing is matched: output k is class k. Raises UserError for a target that is no class.
    """
    contingency(targets, targets, logits.shape[1], logits.shape[1])  # raises
    known = targets >= 0
    order = logits[known.to(logits.device)].topk(min(TOP, logits.shape[1]), dim=1).indices.cpu()
    hits = (order == targets[known, None].cpu()).double()
    return {"acc": hits[:, 0].mean().item(), "top5": hits.sum(1).mean().item()}


def score(probabilities: Tensor, targets: Tensor, num_classes: int, block_bytes: int | None = None) -> dict[str, Any]:
    """Score predictions [N, C] on any device against targets int64 [N] (-1 unknown, left out).

    Returns what `score_clusters` does, and top5: the share of samples whose class is matched to one of the min(5, C)
    most probable clusters. Equal probabilities rank by cluster number. `block_bytes` changes the speed only.

    Raises UserError for NaN, or without labels.
    """
    num_samples, num_clusters = probabilities.shape
    if not bool(torch.isfinite(probabilities.sum())):
        raise UserError("the predictions hold NaN or infinite values: the model has diverged; train it again")
    targets = targets.to(probabilities.device, torch.int64)
    scores = score_clusters(probabilities.argmax(1), targets, num_clusters, num_classes)
    cluster_of = targets.new_full((num_classes,), -1)
    for cluster, label in scores["matching"]:
        cluster_of[label] = cluster
    wanted = torch.where(targets >= 0, cluster_of[targets.clamp(min=0)], -1)
    order = torch.arange(num_clusters, device=targets.device)
    hits = 0
    for rows in row_blocks(num_samples, 8 * num_clusters, targets.device, block_bytes):
        cluster = wanted[rows, None]
        own = probabilities[rows].gather(1, cluster.clamp(min=0))
        ahead = (probabilities[rows] > own) | ((probabilities[rows] == own) & (order < cluster))
        hits += int(((ahead.sum(1) < TOP) & (cluster[:, 0] >= 0)).sum())
    return scores | {"top5": hits / scores["num_samples"]}


def row_blocks(num_rows: int, bytes_per_row: int, device: torch.device, block_bytes: int | None = None) -> list[slice]:
    """Slices of the rows that gather at most `block_bytes` each, by default what suits the device."""
    block_bytes = block_bytes or BLOCK_BYTES["cpu" if device.type == "cpu" else "other"]
    size = max(1, block_bytes // bytes_per_row)
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def without_matrix(scores: dict[str, Any]) -> dict[str, Any]:
    """What `score` gives but the confusion matrix, for a record."""
    return {name: value for name, value in scores.items() if name != "confusion"}


def count_classes(dataset: Any) -> int:
    """Number of classes that a data set's labels speak of."""
    return max(len(dataset.classes), int(dataset.targets.max()) + 1)
