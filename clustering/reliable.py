"""Images whose clusters are most likely right, found without labels: neighbors share them, and the model is sure."""

import numpy as np
import torch
from torch import Tensor

from losses.scan import UNIFORM, ClusterPrior, expected_sizes


def local_agreement(clusters: Tensor, neighbors: Tensor) -> Tensor:
    """Return for each image how many of its neighbors are in its own cluster, int64 [N].

    clusters int64 [N]; neighbors int64 [N, k], column 0 the image itself, which counts.
    """
    return (clusters[neighbors] == clusters[:, None]).sum(1)


def choose_reliable(
    probabilities: Tensor, neighbors: Tensor, share: float, cluster_prior: ClusterPrior = UNIFORM
) -> Tensor:
    """Return the rising numbers int64 [R] of the images whose clusters are the most reliable.

    Of every cluster the same share: first the images with which most neighbors agree, of those with as many the more
    confident ones, then by number. A cluster gives at least one image, and one that is larger than expected no more
    than a cluster of the size expected would.

    Args:
        probabilities: [N, C], of the model's own clusters.
        neighbors: int64 [N, k], column 0 the image itself.
        share: of a cluster's images, above 0 and at most 1.
        cluster_prior: how large clusters are expected to be; by default N / C.
    """
    confidence, clusters = probabilities.cpu().max(1)
    agreement = local_agreement(clusters, neighbors)
    sizes = torch.bincount(clusters, minlength=probabilities.shape[1]).double()
    expected = expected_sizes(cluster_prior, sizes) * (len(clusters) / len(sizes))
    quota = (share * torch.minimum(sizes, expected)).round().clamp(min=1)
    order = torch.from_numpy(np.lexsort((-confidence, -agreement, clusters)))  # stable: a tie goes by number
    first = sizes.cumsum(0) - sizes
    place = torch.arange(len(order)) - first[clusters[order]]  # within the image's cluster, from 0
    return order[place < quota[clusters[order]]].sort().values
