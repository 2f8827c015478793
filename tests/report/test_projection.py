"""The map of a report: which points it has, and where t-SNE puts them."""

import numpy as np
import pytest

from report.projection import choose_points, project


def test_a_map_takes_the_prototypes_and_a_sample():
    points = choose_points(20_000, [3, 19_999], seed=0)
    assert len(points) == len(set(points.tolist())) == 5000 and (np.diff(points) > 0).all()
    assert {3, 19_999} <= set(points.tolist())
    assert (points == choose_points(20_000, [3, 19_999], seed=0)).all()
    assert (points != choose_points(20_000, [3, 19_999], seed=1)).any()


def test_groups_are_apart_on_the_map():
    generator = np.random.default_rng(0)
    group = np.arange(90) % 3
    features = 20 * np.eye(3, 60)[group] + generator.normal(size=(90, 60))
    points = project(features, seed=0)
    assert points.shape == (90, 2) and np.abs(points).max() == pytest.approx(1)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(90, np.inf))
    assert (group[distances.argmin(1)] == group).all()
    assert (points == project(features, seed=0)).all()


@pytest.mark.parametrize("features", [np.zeros((12, 4)), np.ones((1, 4)), np.full((20, 3), np.nan)])
def test_points_without_a_difference_are_in_the_middle(features):
    assert (project(features, seed=0) == 0).all()


@pytest.mark.parametrize("shape", [(2, 5), (3, 1), (9, 1), (40, 1)])
def test_few_points_or_dimensions_have_places_too(shape):
    points = project(np.random.default_rng(0).normal(size=shape), seed=0)
    assert points.shape == (shape[0], 2) and np.isfinite(points).all()
