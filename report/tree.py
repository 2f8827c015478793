"""A tree of the clusters for browsing: those whose mean features are alike are together, so that many can be read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist

from report.summary import Cluster

FEWEST = 4  # clusters of which a tree says more than their list
STEP = 0.9  # a branch whose parts are nearly as far apart as its own place in the tree is no level of its own


@dataclass(frozen=True)
class Branch:
    """A cluster, or several that are alike: `parts`, the largest first, whose mean cosine is `similarity`."""

    clusters: list[Cluster]
    similarity: float = 1.0
    parts: Sequence["Branch"] = ()

    @property
    def size(self) -> int:
        """The number of images."""
        return sum(cluster.size for cluster in self.clusters)


def grow(clusters: Sequence[Cluster], directions: np.ndarray) -> Branch | None:
    """Return the tree of the clusters that are in use, None for fewer than four.

    Average linkage of the cosine distances between mean directions [K, D].
    """
    used = [cluster for cluster in clusters if cluster.size]
    if len(used) < FEWEST:
        return None
    means = directions[[cluster.index for cluster in used]]
    branches = [Branch([cluster]) for cluster in used]
    distances = np.nan_to_num(pdist(means, "cosine"), nan=1.0)  # a mean of zero has no direction, and is like no other
    for one, other, distance, _ in linkage(distances, "average"):
        branches.append(_join([branches[int(one)], branches[int(other)]], float(distance)))
    return branches[-1]


def _join(pair: Sequence[Branch], distance: float) -> Branch:
    """Return two branches as one; a part that joins at nearly the same distance gives its own parts."""
    parts: list[Branch] = []
    for branch in pair:
        alike = branch.parts and 1 - branch.similarity >= STEP * distance
        parts += branch.parts if alike else [branch]
    parts.sort(key=lambda part: -part.size)
    return Branch([cluster for part in parts for cluster in part.clusters], 1 - distance, parts)
