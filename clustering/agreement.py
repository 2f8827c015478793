"""Agreement of clusters with classes, from their contingency table alone (NMI, ARI, AMI), or with one another.

The values are scikit-learn's. Its own functions take labels and need half a minute for the expected mutual
information of a thousand clusters with a million samples; from the table this takes a second or two.
"""

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln, xlogy
from torch import Tensor

TAIL = 60.0  # what is left out of the expectation has a probability below exp(-60)


def agreement(table: np.ndarray) -> dict[str, float]:
    """Return nmi (arithmetic mean of the entropies), ari and ami of a contingency table int [C, K]."""
    table = table[table.sum(1) > 0][:, table.sum(0) > 0].astype(np.int64)
    if table.shape[0] == table.shape[1] == np.count_nonzero(table):  # a perfect match, of which sums are but nearly 1
        return {"nmi": 1.0, "ari": 1.0, "ami": 1.0}
    clusters, classes = table.sum(1), table.sum(0)
    information = _entropy(clusters) + _entropy(classes) - _entropy(table.ravel())
    ceiling = (_entropy(clusters) + _entropy(classes)) / 2
    if min(table.shape) == 1:
        return {"nmi": 0.0, "ari": _rand(table), "ami": 0.0}
    expected = expected_information(clusters, classes)
    adjusted = _away_from_zero(information - expected) / _away_from_zero(ceiling - expected)
    return {"nmi": max(0.0, information) / ceiling, "ari": _rand(table), "ami": adjusted}


def _entropy(counts: np.ndarray) -> float:
    share = counts / counts.sum()
    return -float(xlogy(share, share).sum())


def _away_from_zero(x: float) -> float:
    """Keep 0 / 0 of a perfect match at 1."""
    return math.copysign(max(abs(x), float(np.finfo(np.float64).eps)), x)


def _rand(table: np.ndarray) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985) in Python's integers, which do not overflow."""

    def pairs(counts: np.ndarray) -> int:
        return sum(n * (n - 1) for n in counts[counts > 1].tolist())

    together, clusters, classes = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    everything = pairs(np.array([table.sum()]))
    if together == clusters == classes:
        return 1.0
    # Both differences are taken before dividing: they are exact, however close the two sides are.
    return (
        2 * (together * everything - clusters * classes) / ((clusters + classes) * everything - 2 * clusters * classes)
    )


def expected_information(clusters: np.ndarray, classes: np.ndarray) -> float:
    """Return the expected mutual information in nats of random clusters and classes of these sizes [C] and [K].

    Vinh, Epps and Bailey (2010), equation 24: the count n of a cell with marginals a and b is hypergeometric, and
    contributes n/N log(N n / (a b)). Equal class sizes are computed once, and only the counts around the mean a b / N
    that Bernstein's inequality cannot exclude.
    """
    total = int(clusters.sum())
    log_factorial = gammaln(np.arange(total + 1) + 1.0)
    sizes, repeats = np.unique(classes, return_counts=True)
    expected = 0.0
    for a, times in zip(*np.unique(clusters, return_counts=True), strict=True):
        mean = a * sizes / total
        reach = TAIL / 3 + np.sqrt((TAIL / 3) ** 2 + 2 * TAIL * mean)
        lowest = np.maximum(np.maximum(1, a + sizes - total), np.floor(mean - reach)).astype(np.int64)
        highest = np.minimum(np.minimum(a, sizes), np.ceil(mean + reach)).astype(np.int64)
        steps = np.arange(max(0, int((highest - lowest).max()) + 1))
        n = np.minimum(lowest + steps[:, None], highest)
        log_probability = (
            log_factorial[[a, total - a]].sum()
            + (log_factorial[sizes] + log_factorial[total - sizes] - log_factorial[total])
            - log_factorial[n]
            - log_factorial[a - n]
            - log_factorial[sizes - n]
            - log_factorial[total - a - sizes + n]
        )
        terms = n / total * np.log(total * n / (a * sizes)) * np.exp(log_probability)
        inside = lowest + steps[:, None] <= highest
        expected += times * float((np.where(inside, terms, 0.0).sum(0) * repeats).sum())
    return expected


def count_pairs(first: Tensor, second: Tensor, num_clusters: int) -> np.ndarray:
    """Return how many images two clusterings int64 [N] put into clusters i and j, int64 [K, K]."""
    cells = first.cpu() * num_clusters + second.cpu()
    return torch.bincount(cells, minlength=num_clusters**2).view(num_clusters, num_clusters).numpy()


def match_clusters(clusters: Tensor, reference: Tensor, num_clusters: int) -> Tensor:
    """Return int64 [K]: which cluster of the reference [N] each cluster of another clustering [N] is.

    It is the Hungarian matching, one to one, that agrees on most images.
    """
    rows, columns = linear_sum_assignment(count_pairs(clusters, reference, num_clusters), maximize=True)
    return torch.from_numpy(columns[np.argsort(rows)]).to(torch.int64)


def adjusted_rand(first: Tensor, second: Tensor, num_clusters: int) -> float:
    """Return the adjusted Rand index of two clusterings int64 [N]: 1 if equal, 0 on average by chance."""
    table = count_pairs(first, second, num_clusters)
    return _rand(table[table.sum(1) > 0][:, table.sum(0) > 0])
