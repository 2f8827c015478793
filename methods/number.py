"""Find how many clusters there are in given features, without a label, and say whether the answer is sure.

    python -m methods.number --config_exp configs/methods/number_digits.yml
    python -m methods.number --config_exp configs/methods/number_cifar10.yml method_kwargs.high=30 run_name=to30

Starts from the features and neighbors of a pretext run. A geometric grid of numbers, then every number around its best
one, is clustered several times: K-means on random halves, on whitened components, on a neighbor graph and on a map, and
SCAN heads. Writes run.json and number.png, the curves of agreement, silhouette and generalisation, to
{root_dir}/{train_db_name}/number.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from clustering.candidate import Embedding
from clustering.judge import generalisation_score
from clustering.kmeans import run_kmeans
from clustering.mining import mine_neighbors
from clustering.number import (
    IMAGES_PER_CLUSTER,
    SMALLEST,
    Choice,
    Point,
    check_range,
    choose,
    mean_agreement,
    search,
    silhouette,
)
from clustering.pca import fit_pca
from methods import scan_heads
from methods.spectral import neighbor_graph
from report import plots
from report.projection import project
from system.console import say
from system.runtime import generator, one_thread
from system.sections import Positive
from training.run import Run
from training.trial import Trial, TrialOver
from utils import cli, pretext
from utils.common_config import get_backbone, get_splits
from utils.stage import run_stage

SAMPLE = 3000  # images that are clustered, more where there are many clusters: enough to tell groups apart
NUM_DIMS, NUM_WHITENED = 50, 20
NUM_NEIGHBORS = 15
NUM_STARTS = 5
PICTURE = "number.png"


class Spaces(NamedTuple):
    """What every K is clustered in: a random sample of the images, prepared once.

    rows int64 [n] of all images, features [n, ΣD], neighbors int64 [n, k + 1] in them; points and whitened, principal
    components of each space; graph [n, largest K], the leading eigenvectors of the neighbor graph; map [n, 2].
    """

    rows: Tensor
    features: Tensor
    neighbors: Tensor
    points: list[Tensor]
    whitened: list[Tensor]
    graph: Tensor
    map: np.ndarray


def num_clustered(num_images: int, largest: int) -> int:
    """Return how many of the images are clustered where there are at most `largest` clusters."""
    return min(num_images, max(SAMPLE, IMAGES_PER_CLUSTER * largest))


def prepare(spaces: Sequence[Tensor], largest: int, seed: int) -> Spaces:
    """Return what features [N, D] of one or several spaces are clustered in, into at most `largest` clusters."""
    num_images = len(spaces[0])
    size = num_clustered(num_images, largest)
    rows = torch.randperm(num_images, generator=generator(seed, "number sample"))[:size].sort().values
    units = [functional.normalize(space[rows].float().cpu(), dim=1) for space in spaces]
    whole = torch.cat(units, dim=1)
    neighbors = torch.as_tensor(mine_neighbors(whole, min(NUM_NEIGHBORS, size - 1)))
    points = [fit_pca(unit, NUM_DIMS).apply(unit) for unit in units]
    whitened = [fit_pca(unit, NUM_WHITENED).apply(unit, whiten=True) for unit in units]
    graph, drawn = leading_eigenvectors(neighbors, largest), project(whole.numpy(), seed)
    return Spaces(rows, whole, neighbors, points, whitened, graph, drawn)


def leading_eigenvectors(neighbors: Tensor, num_dims: int) -> Tensor:
    """Return those [N, num_dims] of the graph of neighbors int64 [N, k + 1] in which a link counts 1 either way."""
    from sklearn.manifold import spectral_embedding  # slow to import

    graph = (neighbor_graph(neighbors.numpy()) > 0).astype(float)
    with warnings.catch_warnings():  # of groups that no neighbor connects, which is what is looked for
        warnings.simplefilter("ignore", UserWarning)
        found = spectral_embedding(graph, n_components=num_dims, drop_first=False, random_state=0)
    return torch.from_numpy(np.ascontiguousarray(found)).float()


def cluster_on_map(spaces: Spaces, num_clusters: int, seed: int) -> Tensor:
    """Return clusters int64 [n] of the map, of which the silhouette is."""
    return run_kmeans(torch.from_numpy(spaces.map), num_clusters, seed, 2 * NUM_STARTS).clusters


def cluster(spaces: Spaces, num_clusters: int, seed: int) -> list[Tensor]:
    """Return independent clusterings int64 [n], the one on the map first."""
    found = [cluster_on_map(spaces, num_clusters, seed)]
    size = len(spaces.features)
    for points, whitened in zip(spaces.points, spaces.whitened, strict=True):
        order = torch.randperm(size, generator=generator(seed, "number halves", num_clusters))
        for draw, half in enumerate((order[: size // 2], order[size // 2 :])):
            centroids = run_kmeans(points[half], num_clusters, seed + draw, NUM_STARTS).centroids
            found.append(torch.cdist(points, centroids).argmin(1))
        found.append(run_kmeans(whitened, num_clusters, seed, NUM_STARTS).clusters)
    graph = functional.normalize(spaces.graph[:, :num_clusters], dim=1)
    found.append(run_kmeans(graph, num_clusters, seed, NUM_STARTS).clusters)
    whole = Embedding(spaces.features, spaces.neighbors)
    scan = scan_heads.fit(whole, num_clusters, seed, num_heads=2, num_steps=150, batch_size=512)
    return [*found, *scan.clusters]


def measure(spaces: Spaces, num_clusters: int, found: Sequence[Tensor]) -> Point:
    """Return what is known without labels of independent clusterings int64 [n] into K, the one on the map first."""
    return Point(
        num_clusters,
        mean_agreement(found, num_clusters),
        silhouette(spaces.map, found[0]),
        generalisation_score(spaces.features, found[0]),
    )


def sheet(spaces: Spaces, clusters: Tensor) -> list[tuple[int, int]]:
    """Return a size and an image for each cluster int64 [n] of the map, the largest first: the one in its middle."""
    points, found = torch.from_numpy(spaces.map), []
    for number in clusters.unique():
        rows = (clusters == number).nonzero()[:, 0]
        middle = (points[rows] - points[rows].mean(0)).norm(dim=1).argmin()
        found.append((len(rows), int(spaces.rows[rows[middle]])))
    return sorted(found, reverse=True)


def count_clusters(
    spaces: Sequence[Tensor], low: int, high: int, seed: int = 0, say: Callable[[str], None] = lambda words: None
) -> tuple[list[Point], Choice, dict[int, list[tuple[int, int]]]]:
    """Find the number of clusters from low to high in features [N, D] of one space or several.

    One more on either side is tried, where there is one, so that the ends can be peaks. `say` is told what runs next.
    Returns the points by rising K, the choice, and a sheet of every K.
    """
    sheets: dict[int, list[tuple[int, int]]] = {}
    first, last = max(SMALLEST, low - 1), max(SMALLEST, min(high + 1, len(spaces[0]) // 2))
    with one_thread():
        say("drawing the map of the images")
        prepared = prepare(spaces, last, seed)

        def told(number: int) -> Point:
            say(f"clustering into {number}")
            found = cluster(prepared, number, seed)
            sheets[number] = sheet(prepared, found[0])
            return measure(prepared, number, found)

        points = search(told, first, last)
    return points, choose(points, low, high), sheets


def train(p: Any, run: Run, low: Positive = SMALLEST, high: Positive | None = None) -> dict[str, Any]:
    """Find the number of clusters in the features of the pretext run; returns the curves and the choice.

    Args:
        low: the smallest number that is looked at.
        high: the largest one; by default 50, or a 20th of the images.
    """
    train_set, _ = get_splits(p, run)
    low, high = check_range(low, high, len(train_set), "method_kwargs.low to method_kwargs.high")
    features = pretext.load_features(p, "train", train_set)
    if isinstance(run, Trial):
        say(f"{len(features):,} features of {features.shape[1]} dimensions are there to be looked at")
        raise TrialOver
    built = get_backbone(p)
    dims = built["facts"].dims if "facts" in built else ()
    # The features of a run are those of the config's networks, or of another one.
    spaces = features.split(dims, dim=1) if sum(dims) == features.shape[1] else [features]
    points, choice, sheets = count_clusters(spaces, low, high, p.seed, say)
    curves = curves_of(points)
    plots.number_curves(Path(run.folder) / PICTURE, curves, choice.num_clusters, choice.low, choice.high)
    named = {number: [(size, train_set.paths[image]) for size, image in found] for number, found in sheets.items()}
    return {**choice._asdict(), "curves": curves, "sheets": named}


def curves_of(points: Sequence[Point]) -> dict[str, list[Any]]:
    """Return what was measured as lists, for records and pictures."""
    return {key: [round(getattr(point, key), 4) for point in points] for key in Point._fields}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_stage("number", train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
