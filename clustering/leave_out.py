"""Which images belong in no cluster: how far is too far, by a share that is given or by a rule that needs no label."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.leave_out import LeaveOut
from system.runtime import generator

NUM_REFERENCES = 2000  # images that all are compared with, kept with the model
PER_CLUSTER = 20  # of the smallest one at least: with fewer it matters that one of them is its own first neighbor
MOST_REFERENCES = 20_000
ROUNDING = 1e-6  # of a distance; equal ones are on the same side
FENCE = 1.5  # interquartile ranges above the upper quartile: the whisker of a box plot


def fit_leave_out(
    features: Tensor, num_clusters: int, share: float | None = None, seed: int = 0, smallest: float = 1.0
) -> LeaveOut:
    """Return what leaves out the images whose k-th neighbor is the farthest.

    k is half the number of images that the smallest cluster is expected to have: images that are alike, but fewer,
    belong in none, and of more a cluster could be made. It is at least 2, since an image is its own first neighbor.

    Args:
        features: [N, D] of all images.
        num_clusters: K.
        share: of the images to leave out, below 1; None: those beyond the whisker of a box plot of the distances, which
            is the upper quartile and one and a half times the distance of the quartiles. Where images differ anyhow,
            that may be none.
        seed: of the choice of the references.
        smallest: the expected size of the smallest cluster, in mean cluster sizes.
    """
    num_images = len(features)
    order = torch.randperm(num_images, generator=generator(seed, "leave out"))
    wanted = min(round(PER_CLUSTER * num_clusters / smallest), MOST_REFERENCES)
    rows = order[: max(NUM_REFERENCES, wanted)].sort().values
    found = LeaveOut(len(rows), features.shape[1]).to(features.device)
    found.reference.copy_(functional.normalize(features[rows.to(features.device)].float(), dim=1))
    found.num_neighbors.fill_(min(max(2, round(smallest * len(rows) / (2 * num_clusters))), len(rows)))
    distances = np.sort(found.distances(features).cpu().numpy())
    if share is None:
        low, high = np.quantile(distances, [0.25, 0.75])
        found.farthest.fill_(float(high + FENCE * (high - low)) + ROUNDING)
    elif num := round(share * num_images):
        between = float(distances[-num - 1 :][:2].mean())  # the last that stays and the next
        found.farthest.fill_(between + ROUNDING)
    return found
