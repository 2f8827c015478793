"""What clusters are worth: scores against labels, the label-free SCAN validation loss, prototypes, K-means.

Everything is one pass over the samples in blocks: time and memory grow with N·C, never with N² or C² passes.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from clustering.agreement import agreement
from losses.scan import LOWEST_LOG, SCANTerms, entropy
from system.errors import UserError

BLOCK_BYTES = {"cpu": 8 << 20, "other": 256 << 20}  # what a block gathers: fits the CPU's cache, fills a GPU
VALIDATION_COLUMNS = 6  # the sample itself and 5 neighbors
PROTOTYPE_CANDIDATES = 10
KMEANS_STARTS = 10
TOP = 5


def contingency(clusters: Tensor, targets: Tensor, num_clusters: int, num_classes: int) -> Tensor:
    """Return how many samples of each class each cluster holds, int64 [C, K] on the device of `clusters` [N].

    Samples without a label (target -1) are left out. Raises UserError for a target that is no class.
    """
    targets = targets.to(clusters.device, torch.int64)
    if len(targets) and int(targets.max()) >= num_classes:
        raise UserError(
            f"the data set has class number {int(targets.max())}, but only {num_classes} classes are expected; "
            "num_classes or the labels are wrong"
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
        raise UserError("no sample has a label, so clusters cannot be scored; give a labelled validation set")
    matching = match(table)
    scores: dict[str, Any] = {"acc": sum(int(table[pair]) for pair in matching) / num_samples}
    if num_clusters > num_classes:
        scores["acc_many_to_one"] = int(table.max(1).sum()) / num_samples
    return scores | agreement(table) | {"matching": matching, "num_samples": num_samples, "confusion": table}


def score(probabilities: Tensor, targets: Tensor, num_classes: int) -> dict[str, Any]:
    """Score predictions [N, C] on any device against targets int64 [N] (-1 unknown, left out).

    Returns what `score_clusters` does, and top5: the share of samples whose class is matched to one of the min(5, C)
    most probable clusters. Equal probabilities rank by cluster number. Raises UserError for NaN, or without labels.
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
    for rows in _blocks(num_samples, 8 * num_clusters, targets.device):
        cluster = wanted[rows, None]
        own = probabilities[rows].gather(1, cluster.clamp(min=0))
        ahead = (probabilities[rows] > own) | ((probabilities[rows] == own) & (order < cluster))
        hits += int(((ahead.sum(1) < TOP) & (cluster[:, 0] >= 0)).sum())
    return scores | {"top5": hits / scores["num_samples"]}


def validation_loss(probabilities: Tensor, neighbors: Tensor | np.ndarray) -> SCANTerms:
    """Return the SCAN validation loss of one head: (total, consistency, entropy), scalars on the device.

    probabilities [N, C] of the validation images; neighbors int64 [N, >= 6], of which the first 6 columns (the sample
    itself and 5 neighbors) count. Consistency is the mean of -log(p_i·p_k) over all pairs; the total is that minus the
    entropy of the mean probability. No label is used. Sums are in float64 where the device has it.
    """
    device = probabilities.device
    wide = torch.float32 if device.type == "mps" else torch.float64
    columns = torch.as_tensor(neighbors)[:, :VALIDATION_COLUMNS]
    num_samples, num_clusters = probabilities.shape
    logs, mass = torch.zeros((), dtype=wide, device=device), torch.zeros(num_clusters, dtype=wide, device=device)
    for rows in _blocks(num_samples, 4 * num_clusters * (columns.shape[1] + 1), device):
        anchors = probabilities[rows].float()
        others = probabilities[columns[rows].to(device)].float()
        dots = (others @ anchors.unsqueeze(2)).squeeze(2)
        logs += dots.clamp(max=1.0).log().clamp(min=LOWEST_LOG).sum(dtype=wide)
        mass += anchors.sum(0, dtype=wide)
    consistency = -logs / columns.numel()
    spread = entropy(mass / num_samples)
    return SCANTerms(consistency - spread, consistency, spread)


def prototypes(features: Tensor | np.ndarray, probabilities: Tensor) -> dict[int, int]:
    """Return the index of the sample that stands for each cluster; empty clusters are left out.

    Among the 10 most confident samples assigned to a cluster (fewer if there are fewer; equal confidence goes by
    index), the one whose feature (backbone, [N, D], not normalised) is nearest in L2 to the mean of theirs.
    """
    confidence, clusters = (x.cpu().numpy() for x in probabilities.max(1))
    order = np.lexsort((-confidence, clusters))  # stable, so equal confidence stays in index order
    first = np.searchsorted(clusters[order], np.arange(probabilities.shape[1] + 1))
    chosen = {}
    for cluster, (start, end) in enumerate(pairwise(first)):
        candidates = order[start : min(end, start + PROTOTYPE_CANDIDATES)]
        if len(candidates):
            own = torch.as_tensor(features[candidates]).cpu().double()
            chosen[cluster] = int(candidates[int((own - own.mean(0)).norm(dim=1).argmin())])
    return chosen


def kmeans(
    train_features: Tensor | np.ndarray,
    val_features: Tensor | np.ndarray,
    val_targets: Tensor,
    num_clusters: int,
    num_runs: int = 5,
    seed: int = 0,
    num_classes: int | None = None,
) -> dict[str, tuple[float, float]]:
    """Cluster L2-normalised features [N, D] by K-means: fitted on train, scored on val, num_runs times.

    Returns acc, nmi and ari, each the mean over the runs and their sample standard deviation (ddof 1; 0 for one run).
    A run is the best, by K-means' own objective, of ten k-means++ starts, seeded by seed + run: a single start often
    ends in a poor local optimum, and would make a fair rival look weak. Raises
    UserError for fewer samples than clusters.
    """
    from sklearn.cluster import KMeans  # slow to import, and asked for rarely

    train, val = (_unit(x) for x in (train_features, val_features))
    if len(train) < num_clusters:
        raise UserError(f"K-means cannot make {num_clusters} clusters of {len(train)} images; use more images")
    num_classes = num_classes or max(1, int(val_targets.max()) + 1)
    runs = []
    for run in range(num_runs):
        model = KMeans(num_clusters, n_init=KMEANS_STARTS, random_state=seed + run).fit(train)
        predicted = torch.from_numpy(model.predict(val))
        runs.append(score_clusters(predicted, val_targets.cpu(), num_clusters, num_classes))
    return {name: _mean_and_std([run[name] for run in runs]) for name in ("acc", "nmi", "ari")}


def _unit(features: Tensor | np.ndarray) -> np.ndarray:
    return torch.nn.functional.normalize(torch.as_tensor(features).cpu().float(), dim=1).numpy()


def _mean_and_std(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _blocks(num_rows: int, bytes_per_row: int, device: torch.device) -> list[slice]:
    size = max(1, BLOCK_BYTES["cpu" if device.type == "cpu" else "other"] // bytes_per_row)
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
