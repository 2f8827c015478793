"""The map: features brought to two dimensions."""

import numpy as np

MAX_POINTS = 5000
NUM_COMPONENTS = 50
PERPLEXITY = 30
MIN_POINTS_TSNE = 10  # fewer points have no neighborhoods to preserve


def choose_points(num_images: int, always: list[int], seed: int) -> np.ndarray:
    """Pick the images of the map, int64 [<= MAX_POINTS], rising: all, or `always` and a random sample."""
    if num_images <= MAX_POINTS:
        return np.arange(num_images)
    drawn = np.random.default_rng(seed).permutation(num_images)
    return np.sort(list(dict.fromkeys([*always, *drawn.tolist()]))[:MAX_POINTS])


def project(features: np.ndarray, seed: int) -> np.ndarray:
    """Project features [N, D] to float64 [N, 2] in −1..1: L2-normalize, PCA to 50 dimensions, then t-SNE.

    Few points, or points that are all the same, are projected by PCA alone.
    """
    from sklearn.decomposition import PCA  # slow to import
    from sklearn.manifold import TSNE

    x = np.nan_to_num(np.asarray(features, dtype=np.float64))
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    x = x - x.mean(axis=0)
    if len(x) < 2 or np.abs(x).max() < 1e-9:
        return np.zeros((len(x), 2))
    size = min(NUM_COMPONENTS, *x.shape)
    points = PCA(size, svd_solver="full" if x.shape[1] <= 4096 else "randomized", random_state=seed).fit_transform(x)
    points = np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))
    if len(points) >= MIN_POINTS_TSNE:
        perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
        points = TSNE(2, init="pca", perplexity=perplexity, random_state=seed).fit_transform(points)
    points = points[:, :2].astype(np.float64)
    points -= (points.max(axis=0) + points.min(axis=0)) / 2
    return points / max(float(np.abs(points).max()), 1e-12)
