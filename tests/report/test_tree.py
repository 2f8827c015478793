"""The tree of clusters: joined by hand-worked cosines, and every cluster in it once."""

import numpy as np
import pytest

from report.summary import Cluster
from report.tree import grow


def make(degrees, sizes):
    """Clusters in one direction of the plane each, and those directions."""
    angles = np.deg2rad(degrees)
    clusters = [Cluster(i, size=size) for i, size in enumerate(sizes)]
    return clusters, np.stack([np.cos(angles), np.sin(angles)], axis=1)


def shape(branch):
    return [shape(part) for part in branch.parts] if branch.parts else branch.clusters[0].index


def test_what_is_alike_is_joined_first_and_the_largest_part_is_first():
    """At 0 and 10 degrees, and at 90 and 100: two pairs, whose mean distance is 1 - mean(cos 90, 100, 80, 90)."""
    branch = grow(*make([0, 90, 10, 100], [1, 2, 3, 4]))
    assert shape(branch) == [[3, 1], [2, 0]]
    assert [cluster.index for cluster in branch.clusters] == [3, 1, 2, 0] and branch.size == 10
    assert [part.similarity for part in branch.parts] == pytest.approx([np.cos(np.deg2rad(10))] * 2)
    assert branch.similarity == pytest.approx(0, abs=1e-9)


def test_joins_at_nearly_the_same_distance_are_one_level():
    """One pair is 5 degrees apart, and the three directions 120: no ladder of pairs above the first."""
    four = grow(*make([0, 5, 120, 240], [1, 1, 1, 1]))
    assert shape(four) in ([[0, 1], 2, 3], [[0, 1], 3, 2])


def test_an_empty_cluster_is_not_in_it_and_few_clusters_need_no_tree():
    clusters, directions = make([0, 40, 120, 180, 270], [1, 0, 1, 1, 1])
    assert sorted(cluster.index for cluster in grow(clusters, directions).clusters) == [0, 2, 3, 4]
    assert grow(clusters[:3], directions[:3]) is None


def test_fifty_clusters_are_each_in_it_once_and_it_is_not_deep():
    directions = np.random.default_rng(0).normal(size=(50, 32))
    branch = grow([Cluster(i, size=20) for i in range(50)], directions)
    assert sorted(cluster.index for cluster in branch.clusters) == list(range(50))

    def depth(one):
        return 1 + max(map(depth, one.parts)) if one.parts else 0

    assert depth(branch) < 10


def test_a_cluster_whose_mean_has_no_direction_is_like_no_other():
    clusters, directions = make([0, 10, 30, 40], [1, 1, 1, 1])
    branch = grow([*clusters, Cluster(4, size=1)], np.vstack([directions, [0, 0]]))
    assert shape(branch) == [[[0, 1], [2, 3]], 4]
    assert branch.similarity == 0
