"""How many clusters there are: curves over K that need no label, and a choice that says whether it is sure.

The choice is read from one curve: the silhouette of K-means on a map, the features brought to two dimensions once for
all K, with a little of the agreement of independent clusterings. Where images form groups, the map shows them apart,
and the silhouette has its peak at their number. Agreement alone does not show that number, since few clusters agree for
other reasons. Where the peak stands out of all numbers that are far from it, it is mostly right.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clustering.agreement import adjusted_rand
from system.errors import ConfigError

SMALLEST, LARGEST = 2, 50
IMAGES_PER_CLUSTER = 20  # of the largest K that is looked at unless one is given
FEWEST_PER_CLUSTER = 5  # of the largest K that may be given
GRID_SIZE = 11
RANGE = 0.03  # values so near to the best one are in the range that is told
FAR = 1.5  # numbers that differ by more than this factor are far from each other
TWO_ABOVE = 0.25  # by which two clusters must be better than all others to be a peak
OTHER_PEAKS = 0.1  # peaks so near to the best one are told
WEIGHT = 0.1  # of agreement next to the silhouette: it decides between peaks that are nearly equal


class Point(NamedTuple):
    """What is known without labels of clusterings into K clusters.

    agreement: mean adjusted Rand index of all pairs of clusterings. silhouette: of K-means on the map. generalisation:
    how often a linear classifier is right about unseen images' clusters; few clusters have a high one.
    """

    num_clusters: int
    agreement: float
    silhouette: float
    generalisation: float


SURE = 0.055
"""By how much the best peak stands out where it is sure: best_lead of the cases of benchmarks/number.py up to SEEN."""


class Choice(NamedTuple):
    """The chosen K, the next best peak, the range [low, high], whether sure, the peaks that are told, and a sentence.

    `runner_up` is None where there is no other peak.
    """

    num_clusters: int
    runner_up: int | None
    low: int
    high: int
    sure: bool
    peaks: list[int]
    sentence: str


def check_range(low: int, high: int | None, num_images: int, name: str) -> tuple[int, int]:
    """Return the smallest and largest number to try; raises ConfigError, which calls the range `name`."""
    if low < SMALLEST:
        raise ConfigError(f"{name} begins at {low}, but grouping needs at least {SMALLEST} clusters")
    if num_images < SMALLEST * FEWEST_PER_CLUSTER:
        raise ConfigError(
            f"{num_images} images are too few to estimate a number of clusters; at least "
            f"{SMALLEST * FEWEST_PER_CLUSTER} are needed"
        )
    if high is None:
        if low >= LARGEST:
            raise ConfigError(f"{name} begins at {low}, and without an end it goes to {LARGEST}; give its end too")
        high = min(LARGEST, num_images // IMAGES_PER_CLUSTER)
        if low >= high:
            raise ConfigError(
                f"{num_images:,} images are too few to look for a number from {low} on; give the number itself, or "
                f"also the end of {name}"
            )
    if low > high:
        raise ConfigError(f"{name} begins at {low} and ends at {high}; give the smaller number first")
    if high > num_images / FEWEST_PER_CLUSTER:
        raise ConfigError(
            f"{name} ends at {high}, but {num_images:,} images can be asked for at most "
            f"{num_images // FEWEST_PER_CLUSTER} clusters, {FEWEST_PER_CLUSTER} images each; give a smaller number"
        )
    return low, high


def grid(low: int, high: int, size: int = GRID_SIZE) -> list[int]:
    """Return about `size` numbers from low to high that rise by a factor, both ends in it."""
    return sorted({round(value) for value in np.geomspace(low, high, size)})


def around(tried: Sequence[int], center: int) -> list[int]:
    """Return the numbers not tried yet between the tried ones on both sides of `center`."""
    below = max((k for k in tried if k < center), default=center)
    above = min((k for k in tried if k > center), default=center)
    return [k for k in range(below + 1, above) if k != center]


def mean_agreement(clusterings: Sequence[Tensor], num_clusters: int) -> float:
    """Return the mean adjusted Rand index of all pairs of clusterings int64 [N]."""
    return float(np.mean([adjusted_rand(one, other, num_clusters) for one, other in combinations(clusterings, 2)]))


def silhouette(points: np.ndarray, clusters: Tensor) -> float:
    """Return the mean silhouette of clusters int64 [N] on points [N, d]; -1 for one cluster."""
    from sklearn.metrics import silhouette_score  # slow to import

    return float(silhouette_score(points, clusters.numpy())) if len(torch.unique(clusters)) > 1 else -1.0


def find_peaks(values: Sequence[float]) -> list[int]:
    """Return the positions of values that both neighbors do not exceed, the best first; ends are no peaks."""
    inner = range(1, len(values) - 1)
    peaks = [i for i in inner if values[i] >= max(values[i - 1], values[i + 1])]
    return sorted(peaks, key=lambda i: -values[i])


def height(point: Point) -> float:
    """Return what a peak is one of: the silhouette, and a little of the agreement."""
    return point.silhouette + WEIGHT * point.agreement


def best_peak(points: Sequence[Point]) -> int:
    """Return the K of the best peak, or the best K of all where there is none."""
    values = [height(point) for point in points]
    peaks = find_peaks(values)
    return points[peaks[0] if peaks else int(np.argmax(values))].num_clusters


def search(measure: Callable[[int], Point], first: int, last: int) -> list[Point]:
    """Return points by rising K: those of a geometric grid from first to last, then of every K around its best peak."""
    found = {number: measure(number) for number in grid(first, last)}
    best = best_peak([found[number] for number in sorted(found)])
    found |= {number: measure(number) for number in around(sorted(found), best)}
    return [found[number] for number in sorted(found)]


def choose(points: Sequence[Point], low: int, high: int, sure_from: float = SURE) -> Choice:
    """Choose the number of clusters from low to high, without a label, from points by rising K.

    The chosen K is the best one; it is sure where it is a peak whose `lead` is at least `sure_from`. Points below low
    and above high only say whether the ends are peaks, and how far the best one stands out. Nothing lies below two
    clusters, and nearly all sets of images fall into two kinds, so two are chosen only where they are far better than
    every other number.
    """
    values = [height(point) for point in points]
    numbers = [point.num_clusters for point in points]
    inside = [i for i, number in enumerate(numbers) if low <= number <= high]
    above_two = [i for i in inside if numbers[i] > SMALLEST] or inside
    peaks = [i for i in find_peaks(values) if i in above_two]
    first, *rest = values
    if inside[0] == 0 and numbers[0] == SMALLEST and first > max(rest, default=first) + TWO_ABOVE:
        peaks, best = [0, *peaks], 0
    else:
        best = max(above_two, key=lambda i: values[i])
    sure = best in peaks and lead(points, best) >= sure_from
    among = [best, *above_two] if sure else inside
    span = [numbers[i] for i in among if values[i] >= values[best] - RANGE]
    others = [i for i in peaks if i != best]
    if not sure:
        span += [numbers[i] for i in others[:1]]
        if len(span) == 1:  # what is not sure is a range
            span += [numbers[i] for i in inside if abs(i - best) == 1]
    told = sorted(numbers[i] for i in peaks if values[i] >= values[best] - OTHER_PEAKS)
    runner = numbers[others[0]] if others else None
    found = Choice(numbers[best], runner, min(span), max(span), sure, told, "")
    return found._replace(sentence=in_words(found))


def lead(points: Sequence[Point], position: int) -> float:
    """Return by how much the point at a position is better than the best one whose number is far from its own.

    Where no larger number is far, the largest counts; where none is larger, nothing is known, and it is -1.
    """
    own, last = points[position].num_clusters, points[-1]
    above = [point for point in points if point.num_clusters > FAR * own] or [last]
    below = [point for point in points if point.num_clusters < own / FAR]
    return height(points[position]) - max(map(height, above + below)) if last.num_clusters > own else -1.0


def in_words(choice: Choice) -> str:
    """Return a choice as a sentence."""
    if choice.sure:
        others = f"; any from {choice.low} to {choice.high} is nearly as good" if choice.low < choice.high else ""
        text = f"{choice.num_clusters} clusters: the images form well-separated groups{others}"
    else:
        where = f"between {choice.low} and {choice.high}" if choice.low < choice.high else f"about {choice.low}"
        text = f"not sure: {where}; {choice.num_clusters} is taken"
    if choice.runner_up in choice.peaks:
        text += f"; the next best number is {choice.runner_up}"
    more = [k for k in choice.peaks if k not in (choice.num_clusters, choice.runner_up)]
    if more and choice.sure:
        text += f"; there are groups within groups, also at {' and '.join(map(str, more))}"
    return text
