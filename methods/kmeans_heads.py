"""K-means as a candidate: its centroids as a linear head on given features."""

import time
from typing import Any

from clustering.candidate import Candidate, Embedding, make_candidate
from clustering.kmeans import fit_kmeans

NUM_DRAWS = 3


def fit(
    embedding: Embedding,
    num_clusters: int,
    seed: int = 0,
    *,
    num_dims: int | None = None,
    whiten: bool = False,
    num_draws: int = NUM_DRAWS,
    name: str = "kmeans",
) -> Candidate:
    """Cluster features by K-means several times; the lowest inertia counts. Keywords: see `fit_kmeans`."""
    started, (dims, first) = time.perf_counter(), embedding.place
    options: dict[str, Any] = {"dims": dims, "first": first, "num_dims": num_dims, "whiten": whiten}
    fits = [fit_kmeans(embedding.features, num_clusters, seed + 1000 * draw, **options) for draw in range(num_draws)]
    losses = [fit.inertia for fit in fits]
    return make_candidate(name, [fit.head for fit in fits], losses, embedding.features, time.perf_counter() - started)
