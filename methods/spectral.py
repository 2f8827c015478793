"""Spectral clustering (Ng, Jordan and Weiss, NeurIPS 2001) of the graph of nearest neighbors, as a head on features."""

import time
import warnings
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh, lobpcg
from torch import Tensor
from torch.nn.functional import normalize

from clustering.candidate import Candidate, Embedding, make_candidate
from clustering.distil import distil
from clustering.kmeans import run_kmeans
from clustering.mining import mine_neighbors
from clustering.neighbors import limit_neighbors
from clustering.pca import fit_even_pca
from models.heads import LinearHead
from system.runtime import generator

NUM_NEIGHBORS = 15  # from 5 to 30 clusters differ by less than the draws of images do
DENSE_IMAGES = 500  # up to which all eigenvectors are computed: exact whatever the graph, in a blink
BLOCK_STEPS = 200  # of the eigensolver that is taken where the first one does not converge
MOST_IN_PARTS = 0.5  # of the images that must be in parts of the graph that could be clusters
NUM_DIMS = 256  # components that the head is fitted on
CONFIDENT = 0.9  # half of the images get a larger probability; heads of other methods are about as sure


def neighbor_graph(neighbors: np.ndarray) -> csr_array:
    """Return the weights [N, N] between images: 1 where each is the other's neighbor, 1/2 where one is.

    neighbors is int64 [N, k + 1], the image itself in column 0.
    """
    num_images, num = len(neighbors), neighbors.shape[1] - 1
    rows, columns = np.repeat(np.arange(num_images, dtype=np.int32), num), neighbors[:, 1:].astype(np.int32).ravel()
    links = coo_array((np.ones(len(rows)), (rows, columns)), shape=(num_images, num_images)).tocsr()
    return (links + links.T) / 2


def in_large_parts(weights: csr_array, num_clusters: int) -> np.ndarray:
    """Return which images, bool [N], are in a part of the graph that could be a cluster: of half a mean one, at least.

    No link joins one part to another; small ones are copies of one picture, or foreign, and would each take a cluster.
    Where most images are in small parts, all are taken.
    """
    _, part = connected_components(weights, directed=False)
    large = (np.bincount(part) >= len(part) / (2 * num_clusters))[part]
    return large if large.mean() >= MOST_IN_PARTS else np.ones_like(large)


def _leading(
    matrix: csr_array, known: np.ndarray, num_dims: int, draws: torch.Generator, max_restarts: int
) -> np.ndarray:
    """The first eigenvectors of a matrix besides those that are known."""
    if not num_dims:
        return known[:, :0]

    def product(x: np.ndarray) -> np.ndarray:
        return matrix @ x - known @ (known.T @ x)

    wanted: Any = matrix
    if known.shape[1]:
        wanted = LinearOperator(matrix.shape, matvec=product, matmat=product, dtype=np.float64)
    start = torch.randn(len(known), num_dims, generator=draws, dtype=torch.float64).numpy()
    try:
        _, vectors = eigsh(wanted, num_dims, which="LA", v0=start[:, 0], maxiter=max_restarts)
    except ArpackNoConvergence:  # of many that are nearly equal; a block of them at once settles on some
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, vectors = lobpcg(wanted, start, largest=True, maxiter=BLOCK_STEPS)
    return vectors


def embed_graph(weights: csr_array, num_dims: int, seed: int = 0, max_restarts: int = 300) -> Tensor:
    """Return unit vectors float64 [N, num_dims] of images, close where many short paths of the graph join them.

    They are rows of the first eigenvectors of D^(-1/2) W D^(-1/2), D being the sum of every image's weights.
    """
    num_images = weights.shape[0]
    scale = diags_array(1 / np.sqrt(weights.sum(axis=1)))
    matrix = scale @ weights @ scale
    if num_images <= max(DENSE_IMAGES, 2 * num_dims):
        _, vectors = eigh(matrix.toarray(), subset_by_index=[num_images - num_dims, num_images - 1])
    else:
        # Each part has an eigenvector of eigenvalue 1, which is known: D^(1/2) in the part, 0 elsewhere. An eigensolver
        # that looks for one vector after the other misses some of many equal ones.
        num_parts, part = connected_components(weights, directed=False)
        draws = generator(seed, "spectral")
        if num_parts > num_dims:  # every mixture of them is as good
            vectors = torch.randn(num_parts, num_dims, generator=draws, dtype=torch.float64).numpy()[part]
        else:
            known = (part[:, None] == np.arange(num_parts)) * np.sqrt(weights.sum(axis=1))[:, None]
            known = known / np.linalg.norm(known, axis=0) if num_parts > 1 else known[:, :0]
            rest = _leading(matrix, known, num_dims - known.shape[1], draws, max_restarts)
            vectors = np.concatenate([rest, known], axis=1)
    return normalize(torch.from_numpy(np.ascontiguousarray(vectors)), dim=1)


def fit(
    embedding: Embedding,
    num_clusters: int,
    seed: int = 0,
    *,
    most_images: int = 20_000,
    name: str = "spectral",
) -> Candidate:
    """Cut the graph of neighbors into clusters, and fit a linear head that gives them to the features.

    Args:
        embedding: features, and neighbors in them.
        num_clusters: K, of at most N images.
        seed: of all draws.
        most_images: in the graph; of more, so many are drawn.
        name: of the candidate.

    The loss is the inertia of K-means among the graph's eigenvectors.
    """
    started, features = time.perf_counter(), embedding.features
    dims, first = embedding.place
    head = LinearHead(dims, num_clusters, first)
    rows = torch.randperm(len(features), generator=generator(seed, "spectral sample"))[:most_images].sort().values
    near = embedding.near[:, : NUM_NEIGHBORS + 1].cpu().numpy()
    own = head.own(features[rows.to(features.device)])
    if len(rows) < len(features):
        near = mine_neighbors(own, limit_neighbors(near.shape[1] - 1, len(rows), num_clusters), dims=dims)
    graph = neighbor_graph(near)
    kept = in_large_parts(graph, num_clusters)
    cut = run_kmeans(embed_graph(graph[kept][:, kept], num_clusters, seed), num_clusters, seed)
    pca = fit_even_pca(own, NUM_DIMS)
    known = pca.apply(own[torch.from_numpy(kept).to(own.device)])
    linear = distil(known, cut.clusters, num_clusters, CONFIDENT)
    weight, bias = pca.fold(linear.weight.detach().to(own.device), linear.bias.detach().to(own.device))
    head.load_state_dict({"weight": weight, "bias": bias})
    return make_candidate(name, [head], [cut.inertia], features, time.perf_counter() - started)
