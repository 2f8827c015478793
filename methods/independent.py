"""Independent clusterings of features, one way after another, and what is known of them without labels.

What `methods.number` compares the numbers of clusters by.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from clustering.candidate import Embedding
from clustering.judge import generalisation_score
from clustering.kmeans import run_kmeans
from clustering.mining import mine_neighbors
from clustering.number import IMAGES_PER_CLUSTER, Point, mean_agreement, silhouette
from clustering.pca import fit_pca
from methods import scan_heads
from methods.spectral import neighbor_graph
from report.projection import project
from system.runtime import generator

SAMPLE = 3000  # images that are clustered, more where there are many clusters: enough to tell groups apart
NUM_DIMS, NUM_WHITENED = 50, 20
NUM_NEIGHBORS = 15
NUM_STARTS = 5


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
            centroids = run_kmeans(points[half], num_clusters, seed + draw, NUM_STARTS, is_part=True).centroids
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
