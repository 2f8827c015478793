"""The methods on features whose clusters are plain to see, and the parts that formulas fix."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from clustering.candidate import Embedding, predict
from clustering.mining import mine_neighbors
from clustering.scores import score_clusters
from methods import kmeans_heads, scan_heads, spectral, temi, turtle

QUICK = {
    scan_heads: {"num_steps": 100, "num_heads": 2},
    spectral: {},
    temi: {"num_steps": 300, "num_heads": 3, "hidden": 32, "bottleneck": 16, "batch_size": 128},
    turtle: {"num_steps": 80, "num_heads": 2},
}


def blobs(num_images=240, length=20, num_clusters=4, spread=0.4, seed=0):
    draws = torch.Generator().manual_seed(seed)
    truth = torch.arange(num_images) % num_clusters
    centers = 1 + torch.randn(num_clusters, length, generator=draws)
    return centers[truth] + spread * torch.randn(num_images, length, generator=draws), truth


@pytest.fixture(scope="module")
def data():
    x, truth = blobs()
    return x, truth, torch.as_tensor(mine_neighbors(x, 10))


def acc(clusters, truth):
    return score_clusters(clusters, truth, 4, 4)["acc"]


@pytest.mark.parametrize("method", QUICK, ids=lambda method: method.__name__)
def test_clear_clusters_are_found_again_bit_for_bit(method, data):
    x, truth, neighbors = data
    found, again = (method.fit(Embedding(x, neighbors), 4, 3, **QUICK[method]) for _ in range(2))
    assert max(acc(clusters, truth) for clusters in found.clusters) > 0.95
    assert found.losses == again.losses
    assert torch.equal(predict(found.head, x), predict(again.head, x))
    assert torch.equal(predict(found.head, x).argmax(1), found.clusters[found.best])
    if method is not spectral:  # which has one solution, found from any start
        other = method.fit(Embedding(x, neighbors), 4, 4, **QUICK[method])
        assert other.losses != found.losses


@pytest.mark.parametrize("method", QUICK, ids=lambda method: method.__name__)
def test_columns_of_other_spaces_are_not_read(method, data):
    x, _, neighbors = data
    wide = torch.cat([torch.full((len(x), 3), 50.0), x], dim=1)
    placed = method.fit(Embedding(wide, neighbors, [20], 3), 4, 3, **QUICK[method])
    alone = method.fit(Embedding(x, neighbors), 4, 3, **QUICK[method])
    assert torch.equal(placed.clusters, alone.clusters)


@pytest.mark.parametrize("method", [scan_heads, spectral, temi], ids=lambda method: method.__name__)
def test_neighbors_are_needed(method, data):
    with pytest.raises(ValueError, match="neighbors"):
        method.fit(Embedding(data[0]), 4)


@pytest.mark.parametrize("method", [scan_heads, temi], ids=lambda method: method.__name__)
def test_it_is_neighbors_that_are_put_together(method, data):
    """With neighbors that say otherwise, clusters follow them and not the features."""
    x, truth, _ = data
    rows = torch.arange(len(x))
    pairs = truth // 2  # classes 0 and 1 are told to belong together, and so are 2 and 3
    draws = torch.Generator().manual_seed(0)
    columns = [torch.stack([rows[pairs == p][torch.randint(120, (10,), generator=draws)] for p in pairs.tolist()])]
    neighbors = torch.cat([rows[:, None], *columns], dim=1)
    found = method.fit(Embedding(x, neighbors), 2, 0, **QUICK[method])
    assert max(score_clusters(one, pairs, 2, 2)["acc"] for one in found.clusters) > 0.95


def test_classifiers_of_turtle_take_the_steps_of_adam():
    draws = torch.Generator().manual_seed(0)
    points = torch.randn(30, 5, generator=draws)
    labels = torch.softmax(torch.randn(2, 30, 3, generator=draws), dim=2)
    weight, bias = turtle.fit_classifiers(points, labels, 7, 0.03)
    for head in range(2):
        own, own_bias = torch.zeros(5, 3, requires_grad=True), torch.zeros(1, 3, requires_grad=True)
        optimizer = torch.optim.Adam([own, own_bias], 0.03)
        for _ in range(7):
            optimizer.zero_grad()
            functional.cross_entropy(points @ own + own_bias, labels[head]).backward()
            optimizer.step()
        assert torch.allclose(weight[head], own.detach(), atol=1e-5)
        assert torch.allclose(bias[head], own_bias.detach(), atol=1e-5)


def test_features_of_unit_norm_keep_published_classifiers_at_log_k():
    x, truth = blobs(length=64)
    labels = functional.one_hot(truth).float()[None]

    def loss(points):
        weight, bias = turtle.fit_classifiers(points, labels, 10, 1e-3)
        return float(functional.cross_entropy((points @ weight + bias)[0], truth))

    assert loss(functional.normalize(x, dim=1)) > 0.95 * math.log(4)
    assert loss(turtle.standardize(x)[0]) < 0.8 * math.log(4)


def test_turtle_takes_several_spaces(data):
    x, truth, _ = data
    both = torch.cat([x, 100 + 30 * x[:, torch.randperm(20)]], dim=1)
    found = turtle.fit(Embedding(both, dims=[20, 20]), 4, 0, **QUICK[turtle])
    assert max(acc(clusters, truth) for clusters in found.clusters) > 0.95


def test_a_dimension_that_never_changes_is_harmless(data):
    x = torch.cat([data[0], torch.ones(len(data[0]), 1)], dim=1)
    assert bool(torch.isfinite(predict(turtle.fit(Embedding(x), 4, **QUICK[turtle]).head, x)).all())


def test_losses_of_k_means_are_inertias_and_the_lowest_counts(data):
    found = kmeans_heads.fit(Embedding(data[0]), 7)
    points, inertias = functional.normalize(data[0], dim=1).double().numpy(), []
    for clusters in found.clusters.numpy():
        means = np.stack([points[clusters == cluster].mean(0) for cluster in range(7)])
        inertias.append(((points - means[clusters]) ** 2).sum())
    assert found.losses == pytest.approx(inertias, rel=1e-4) and len(inertias) == 3
    assert found.best == int(np.argmin(inertias)) and len(set(np.round(inertias, 3))) > 1
