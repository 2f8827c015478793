"""A clustering of features as one linear head, whose confidence means something: what self-labeling can begin with."""

import torch
from torch import Tensor
from torch.nn import functional

from models.heads import LinearHead
from system.runtime import generator

MOST_IMAGES = 20_000  # that the head is fitted on, drawn
L2 = 1.0  # of scikit-learn's LogisticRegression
SHARE = 0.5  # of the images whose probability is above the threshold at the start
NARROWEST, WIDEST = 1e-3, 1e4  # factors of the logits that are tried
HALVINGS = 60


def distil(features: Tensor, clusters: Tensor, num_clusters: int, threshold: float) -> LinearHead:
    """Fit a linear head that gives features [N, D] their clusters int64 [N], scaled so that half are confident.

    The head is a logistic regression on standardized features. How large its probabilities are says how strongly it
    was regularized, and nothing of the images; their order does. So its logits are multiplied by the number at which
    the probability of half of the images is above the threshold. Clusters without an image get no probability.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import

    features = features.float().cpu()
    rows = torch.randperm(len(features), generator=generator(0, "distil"))[:MOST_IMAGES].sort().values
    mean, std = features.mean(0), features.std(0).clamp(min=1e-6) * features.shape[1] ** 0.5
    given = clusters.cpu()[rows]
    head = LinearHead([features.shape[1]], num_clusters).requires_grad_(False)
    head.weight.zero_()
    head.bias.fill_(-1e4)
    used = given.unique()
    if len(used) == 1:
        head.bias[used] = 0.0
        return head
    model = LogisticRegression(C=1 / L2, max_iter=200).fit(((features[rows] - mean) / std).numpy(), given.numpy())
    weight, bias = (torch.from_numpy(array).float() for array in (model.coef_, model.intercept_))
    if len(used) == 2:  # one row, of the second
        weight, bias = torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2])
    weight = weight / std
    bias = bias - weight @ mean
    factor = find_factor(functional.linear(features, weight, bias), threshold)
    head.weight[used], head.bias[used] = factor * weight, factor * bias
    return head


def find_factor(logits: Tensor, threshold: float, share: float = SHARE) -> float:
    """Return by what to multiply logits [N, K] for a share of the rows to have a probability above the threshold."""
    low, high = NARROWEST, WIDEST
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        confident = functional.softmax(middle * logits, dim=1).max(1).values > threshold
        low, high = (middle, high) if confident.double().mean() < share else (low, middle)
    return high
