"""K-means on features, for comparison."""

import numpy as np
import torch
from torch import Tensor

from clustering.scores import score_clusters
from system.errors import UserError

KMEANS_STARTS = 10


def score_kmeans(
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
        raise UserError(
            f"K-means cannot make {num_clusters} clusters of {len(train)} images; lower num_classes or use more images"
        )
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
