"""Spectral clustering against graphs whose eigenvectors are known."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from clustering.candidate import Embedding, predict
from clustering.kmeans import run_kmeans
from clustering.mining import mine_neighbors
from methods import spectral
from methods.spectral import embed_graph, neighbor_graph


def test_weights_are_halved_where_only_one_is_the_others_neighbor():
    neighbors = np.array([[0, 1], [1, 0], [2, 0]])
    assert neighbor_graph(neighbors).toarray().tolist() == [[0, 1, 0.5], [1, 0, 0], [0.5, 0, 0]]


def ring(num_images):
    """Each image is joined to the tenth of all next to it: the eigenvectors are the waves of the circle."""
    steps = np.arange(1, num_images // 20)
    return csr_array(sum(np.roll(np.eye(num_images), step, axis=1) for step in (*steps, *-steps)))


# With all eigenvectors, with those that are wanted alone, and where their solver gives up.
@pytest.mark.parametrize(("num_images", "max_restarts"), [(60, 300), (601, 300), (601, 1)])
def test_a_ring_is_laid_out_by_its_waves(num_images, max_restarts):
    found = embed_graph(ring(num_images), 3, max_restarts=max_restarts)
    # A constant 1 and waves of √2 sin, √2 cos: unit rows of places a and b have the product (1 + 2 cos(a - b)) / 3.
    angle = 2 * torch.pi * torch.arange(num_images, dtype=torch.float64) / num_images
    torch.testing.assert_close(found @ found.T, (1 + 2 * torch.cos(angle[:, None] - angle)) / 3, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [20, 200])
def test_parts_that_nothing_joins_are_the_clusters(size):
    groups = np.arange(3 * size) % 3
    draws = np.random.default_rng(0)
    near = np.stack([np.flatnonzero(groups == group)[draws.permutation(size)[:16]] for group in groups])
    vectors = embed_graph(neighbor_graph(np.concatenate([np.arange(3 * size)[:, None], near], axis=1)), 3)
    same = torch.from_numpy(groups[:, None] == groups)
    assert torch.allclose((vectors @ vectors.T)[same], torch.ones(int(same.sum()), dtype=torch.float64))
    assert (vectors @ vectors.T)[~same].abs().max() < 1e-6


@pytest.mark.parametrize("num_dims", [10, 13])
def test_many_parts_and_what_is_in_them(num_dims):
    """An eigensolver that looks for one vector after the other overlooks some of the many equal ones."""
    weights, _ = islands([60] * 10)
    found = embed_graph(weights, num_dims)
    scale = np.diag(weights.toarray().sum(1) ** -0.5)
    values, vectors = np.linalg.eigh(scale @ weights.toarray() @ scale)
    assert (values > 1 - 1e-9).sum() == 10
    expected = torch.from_numpy(vectors[:, -num_dims:])
    expected = expected / expected.norm(dim=1, keepdim=True)
    assert torch.allclose(found @ found.T, expected @ expected.T, atol=1e-6)


def islands(sizes):
    """A graph of groups far apart, each image linked to 8 of its own; returns it and the groups."""
    draws = torch.Generator().manual_seed(0)
    truth = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    points = torch.randn(len(truth), 3, generator=draws) + 100 * truth[:, None]
    return neighbor_graph(torch.cdist(points, points).topk(9, largest=False).indices.numpy()), truth


def test_of_more_parts_than_clusters_none_is_divided_and_none_left_over():
    weights, truth = islands([60] * 12)
    found = run_kmeans(embed_graph(weights, 10), 10).clusters
    assert all(len(found[truth == part].unique()) == 1 for part in range(12))
    assert found.bincount(minlength=10).max() <= 180


def test_small_parts_take_no_cluster():
    """Copies of a picture are a part of the graph; six large groups are to be found beside five of them."""
    draws = torch.Generator().manual_seed(0)
    truth = torch.arange(6).repeat_interleave(150)
    x = torch.nn.functional.normalize(torch.randn(6, 32, generator=draws), dim=1)[truth]
    x = x + 0.1 * torch.randn(900, 32, generator=draws)
    copies = torch.randn(5, 32, generator=draws).repeat_interleave(20, 0) + 1e-3 * torch.randn(100, 32, generator=draws)
    x = torch.cat([x, copies])
    found = spectral.fit(Embedding(x, torch.as_tensor(mine_neighbors(x, 15))), 6)
    clusters = found.clusters[0][:900]
    assert all(len(clusters[truth == group].unique()) == 1 for group in range(6)) and len(clusters.unique()) == 6


def test_clusters_follow_the_graph_where_no_line_parts_them_and_the_head_keeps_to_the_features():
    """Two rings, one inside the other, are parted by the graph; a linear head can only give it a part of that."""
    angle = torch.arange(200) * 2 * torch.pi / 100
    radius = 1.0 + 2 * (torch.arange(200) >= 100)
    points = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    neighbors = torch.cdist(points, points).topk(7, largest=False).indices
    lifted = torch.cat([points, points.norm(dim=1, keepdim=True)], dim=1)  # with the radius a plane parts them
    found = spectral.fit(Embedding(lifted, neighbors), 2)
    assert found.clusters[0].bincount().tolist() == [100, 100]
    assert (found.clusters[0] == found.clusters[0][0])[:100].all()
    assert torch.equal(predict(found.head, lifted).argmax(1), found.clusters[0])


def test_a_small_share_of_many_images_stands_for_all():
    draws = torch.Generator().manual_seed(0)
    truth = torch.arange(600) // 200
    x = torch.eye(3)[truth] * 4 + torch.randn(600, 3, generator=draws) / 4
    neighbors = torch.cdist(x, x).topk(16, largest=False).indices
    found = spectral.fit(Embedding(x, neighbors), 3, most_images=100).clusters[0]
    assert len({(int(a), int(b)) for a, b in zip(truth, found, strict=True)}) == 3
