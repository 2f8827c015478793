"""K-means on L2-normalized features, on their principal components if wanted, and the head that is its equal.

Nothing here uses a label. Results are the same for a seed on one machine and thread count.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clustering.agreement import match_clusters
from clustering.pca import PCA, fit_pca
from clustering.scores import score_clusters
from models.heads import KMeansHead
from system.errors import UserError
from system.runtime import generator

NUM_STARTS = 10  # a single start often ends in a poor local optimum
SAMPLE = 16_384  # images that starts are compared on; the best one goes on with all
HALVES_STARTS = 3
CONFIDENCE = 0.99  # the mean largest probability is never above
TEMPERATURES = (1e-8, 1e2)


class KMeans(NamedTuple):
    """Centroids float32 [K, d], clusters int64 [N], and inertia, the sum of squared distances to the own centroid."""

    centroids: Tensor
    clusters: Tensor
    inertia: float


def run_kmeans(
    points: Tensor, num_clusters: int, seed: int = 0, num_starts: int = NUM_STARTS, *, is_part: bool = False
) -> KMeans:
    """Cluster points [N, d] by Lloyd's iteration from the best, by inertia, of several k-means++ starts.

    Above 16,384 points the starts run on a random sample of that many, and the best one goes on with all points.
    Raises UserError for fewer points than clusters, for NaN, or where all points are the same, unless they are part of
    others: half a folder may hold copies of one image.
    """
    from sklearn.cluster import KMeans as Lloyd  # slow to import
    from sklearn.exceptions import ConvergenceWarning

    if len(points) < num_clusters:
        raise UserError(f"K-means cannot make {num_clusters} clusters of {len(points)} images; use more images")
    if not bool(torch.isfinite(points.sum())):
        raise UserError("the features hold NaN or infinite values; the model has diverged or its file is damaged")
    if num_clusters > 1 and not is_part and bool((points == points[0]).all()):
        raise UserError("the features of all images are the same, so there is nothing to cluster")
    values = points.float().cpu().numpy()
    model = Lloyd(num_clusters, n_init=num_starts, random_state=seed)
    size = max(SAMPLE, num_clusters)
    if len(values) > size:
        rows = torch.randperm(len(values), generator=generator(seed, "kmeans sample"))[:size].numpy()
        model = Lloyd(num_clusters, init=model.fit(values[rows]).cluster_centers_, n_init=1)
    with warnings.catch_warnings():  # of fewer different images than clusters: some clusters then stay empty
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(values)
    clusters = torch.from_numpy(model.labels_.astype(np.int64))
    return KMeans(torch.from_numpy(model.cluster_centers_).float(), clusters, float(model.inertia_))


def linear_form(centroids: Tensor, pca: PCA | None = None, whiten: bool = False) -> tuple[Tensor, Tensor]:
    """Return W [K, D] and b [K], float32 on the processor, with the order of W z + b that of z's nearest centroids.

    |y - c|² = |y - m|² - (2 (c - m)·y - 2 (c - m)·m - |c - m|²), and |y - m|² is the same for all clusters; m is the
    mean of the centroids, without which W z would hold what all images share, and rounding with it. With
    y = Λ^(-1/2) V (z - μ), the principal components (no Λ if unwhitened), W = 2 (c - m) Λ^(-1/2) V.
    """
    middle = centroids.double().mean(0)
    away = centroids.double() - middle
    weight, bias = 2 * away, -2 * away @ middle - away.square().sum(1)
    if pca is None:
        return weight.float(), bias.float()
    pca = PCA(*(part.cpu() for part in pca))
    return pca.fold(weight * pca.variances.double().rsqrt() if whiten else weight, bias)


class Fit(NamedTuple):
    """What K-means comes to: its head, clusters int64 [N], inertia, how reproducible it is, and its components."""

    head: KMeansHead
    clusters: Tensor
    inertia: float
    reproducible: float
    pca: PCA | None


def fit_kmeans(
    features: Tensor,
    num_clusters: int,
    seed: int = 0,
    *,
    dims: Sequence[int] | None = None,
    first: int = 0,
    num_dims: int | None = None,
    whiten: bool = False,
    num_starts: int = NUM_STARTS,
) -> Fit:
    """Cluster features [N, ΣD] by K-means after L2-normalizing every space, and return the head that does the same.

    Args:
        features: float32 [N, ΣD].
        num_clusters: K.
        seed: of all draws.
        dims: the lengths of the spaces that are used, side by side (default: all columns, as one space).
        first: the column where they begin.
        num_dims: principal components to cluster (default: none are taken, the features themselves are clustered).
        whiten: whether each component gets variance 1.
        num_starts: k-means++ starts.

    The temperature of the probabilities follows one rule: two random halves of the images are clustered apart; the
    mean largest probability equals the share of all images that both put into the same cluster, at most .99.
    """
    head = KMeansHead(dims or [features.shape[1] - first], num_clusters, first)
    unit = head.unit(features)
    pca = fit_pca(unit, num_dims) if num_dims else None
    points = unit if pca is None else pca.apply(unit, whiten)
    found = run_kmeans(points, num_clusters, seed, num_starts)
    weight, bias = linear_form(found.centroids, pca, whiten)
    head.weight.copy_(weight)
    head.bias.copy_(bias)
    same = reproducibility(points, num_clusters, seed)
    head.temperature.fill_(find_temperature(unit @ weight.to(unit.device).T + bias.to(unit.device), same))
    return Fit(head.to(features.device), found.clusters, found.inertia, same, pca)


def reproducibility(points: Tensor, num_clusters: int, seed: int = 0) -> float:
    """Return the share of points [N, d] that K-means of two random halves puts into the same cluster, once matched."""
    order = torch.randperm(len(points), generator=generator(seed, "kmeans halves")).to(points.device)
    half = max(num_clusters, len(points) // 2)
    placed = []
    for rows in (order[:half], order[-half:]):
        weight, bias = linear_form(run_kmeans(points[rows], num_clusters, seed, HALVES_STARTS, is_part=True).centroids)
        placed.append((points.cpu() @ weight.T + bias).argmax(1))
    matched = match_clusters(placed[1], placed[0], num_clusters)
    return float((matched[placed[1]] == placed[0]).float().mean())


def find_temperature(logits: Tensor, confidence: float) -> float:
    """Return t at which the mean largest probability of softmax(logits / t), logits [N, K], is `confidence`.

    Confidence is kept between 1/K and .99, t between 1e-8 and 100.
    """
    low, high = (float(np.log(limit)) for limit in TEMPERATURES)
    confidence = min(confidence, CONFIDENCE)
    logits = logits[:: max(1, len(logits) // SAMPLE)]  # spread out: folders come class by class
    for _ in range(40):
        middle = (low + high) / 2
        sharper = float(torch.softmax(logits / np.exp(middle), dim=1).amax(1).mean()) > confidence
        low, high = (middle, high) if sharper else (low, middle)
    return float(np.exp((low + high) / 2))


def score_kmeans(
    train_features: Tensor | np.ndarray,
    val_features: Tensor | np.ndarray,
    val_targets: Tensor,
    num_clusters: int,
    num_runs: int = 5,
    seed: int = 0,
    num_classes: int | None = None,
) -> dict[str, tuple[float, float]]:
    """Cluster L2-normalized features [N, D] by K-means: fitted on train, scored on val, num_runs times.

    Returns acc, nmi and ari, each the mean over the runs and their sample standard deviation (ddof 1; 0 for one run).
    A run is the best, by K-means' own objective, of ten k-means++ starts, seeded by seed + run: a single start often
    ends in a poor local optimum, and would make a fair rival look weak.

    Raises UserError for fewer samples than clusters.
    """
    from sklearn.cluster import KMeans as Lloyd  # slow to import, and asked for rarely

    train, val = (_unit(x) for x in (train_features, val_features))
    if len(train) < num_clusters:
        raise UserError(
            f"K-means cannot make {num_clusters} clusters of {len(train)} images; lower num_classes or use more images"
        )
    num_classes = num_classes or max(1, int(val_targets.max()) + 1)
    runs = []
    for run in range(num_runs):
        model = Lloyd(num_clusters, n_init=NUM_STARTS, random_state=seed + run).fit(train)
        predicted = torch.from_numpy(model.predict(val))
        runs.append(score_clusters(predicted, val_targets.cpu(), num_clusters, num_classes))
    return {name: _mean_and_std([run[name] for run in runs]) for name in ("acc", "nmi", "ari")}


def kmeans_head(features: Tensor | np.ndarray, num_clusters: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """K-means on features [N, J] as they are, as a linear layer: weight [K, J] and bias [K].

    Its largest output is the nearest centroid, exactly; its softmax is what equal round Gaussians at the centroids
    give, of K-means' own mean squared distance: s · (2 c·f - |c|²) with s = N J / (2 inertia). Raises UserError as
    `run_kmeans` does.
    """
    points = torch.as_tensor(features).cpu().float()
    found = run_kmeans(points, num_clusters, seed)
    scale = points.numel() / (2 * max(found.inertia, 1e-6 * points.numel()))
    weight, bias = linear_form(found.centroids)
    return scale * weight, scale * bias


def _unit(features: Tensor | np.ndarray) -> np.ndarray:
    return torch.nn.functional.normalize(torch.as_tensor(features).cpu().float(), dim=1).numpy()


def _mean_and_std(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
