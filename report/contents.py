"""What a page shows of a clustering: its clusters, its scores by labels, its left-out images, in arrays."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clustering.prediction import OTHER, find_prototypes
from report import charts, summary, thumbnails
from report.summary import Cluster, Labels

SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class ReportData:
    """What a report is made of: plain data, nothing of the pipeline.

    Shapes: probabilities [N, C], features [N, D], targets [N] (−1 unknown) or None. `thumbnail(i)` gives image
    i (PIL, or uint8 [H, W, 3] or [3, H, W]), or raises UserError where it cannot be read any more. `matching` holds
    (cluster, class), None: the Hungarian one. `metrics` holds the lines of each stage's metrics.jsonl, `facts` how the
    result was made, `scores` what evaluation gave. Paths are shown as they are, and link to the files where
    `image_root` (the folder they are relative to) is given.
    `neighbors` [N, K + 1] are the images with the nearest features, column 0 the image itself. `tile(i)` is
    what `thumbnail` is, where a small picture can be had sooner.
    `unreadable` are files that were left out, None where that is unknown. `whole(i)` is image i at its full size, None:
    `thumbnail` gives that.
    `left_out` bool [N] marks images that belong in no cluster, None: all belong in one.
    `verdict` holds the candidates with their scores, the reason for the chosen one, and how far to trust it; where the
    number of clusters was looked for, `number` has the sentence about it, the picture of its curves, PNG in base64,
    and the link to a page of all numbers that were tried, empty where there is none.
    """

    title: str
    paths: Sequence[str]
    thumbnail: Callable[[int], thumbnails.Picture]
    probabilities: np.ndarray
    features: np.ndarray
    targets: np.ndarray | None = None
    classes: Sequence[str] = ()
    matching: list[tuple[int, int]] | None = None
    metrics: Mapping[str, charts.Lines] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    image_root: Path | None = None
    neighbors: np.ndarray | None = None
    unreadable: Sequence[str] | None = None
    tile: Callable[[int], thumbnails.Picture] | None = None
    whole: Callable[[int], thumbnails.Picture] | None = None
    verdict: Mapping[str, Any] | None = None
    left_out: np.ndarray | None = None


def clean(text: object) -> str:
    """Text that can be written as UTF-8: other bytes of a file name become the replacement character."""
    return SURROGATE.sub("\ufffd", str(text))


@dataclass(frozen=True)
class Contents:
    """What is computed of a report's data, once for all parts of the page.

    kept bool [N]: belongs in a cluster; assigned int64 [N], OTHER where not; confidence float64 [N], 0 where not;
    directions [C, D], the mean features of the clusters as unit vectors; distances [N], of an image to that of its
    cluster. `other` are the images in no cluster, `cards` all that get a part of their own on the page.
    """

    features: np.ndarray
    kept: np.ndarray
    assigned: np.ndarray
    confidence: np.ndarray
    directions: np.ndarray
    distances: np.ndarray
    prototypes: dict[int, int]
    clusters: list[Cluster]
    other: Cluster
    labels: Labels | None

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.assigned)

    @property
    def cards(self) -> list[Cluster]:
        """The clusters that hold images, and what belongs in none."""
        return [cluster for cluster in [*self.clusters, self.other] if cluster.size]

    @property
    def order(self) -> np.ndarray:
        """All images int64 [N] as sheets show them: by cluster, the confident ones first."""
        return np.lexsort((-self.confidence, self.assigned))


def find_contents(data: ReportData, seed: int) -> Contents:
    """Compute what the page shows; raises ValueError when the arrays do not fit one another."""
    probabilities, features = _check(data)
    num_images, num_clusters = probabilities.shape
    kept = np.ones(num_images, dtype=bool) if data.left_out is None else ~np.asarray(data.left_out)
    nearest, confidence = probabilities.argmax(axis=1), np.where(kept, probabilities.max(axis=1), 0).astype(np.float64)
    assigned = np.where(kept, nearest, OTHER)
    prototypes = find_prototypes(features, torch.tensor(probabilities), kept)
    directions = summary.mean_directions(assigned, features, num_clusters)
    distances = summary.distances(assigned, features, directions)
    clusters = summary.summarize_clusters(assigned, confidence, directions, prototypes, seed)
    labels = _labels(data, nearest, confidence, num_clusters)
    for cluster, name in (labels.names() if labels else {}).items():
        clusters[cluster].label = name
    for one in clusters:
        one.distance = float(distances[assigned == one.index].mean()) if one.size else 0.0
    other = summary.summarize_other(assigned, distances, seed)
    return Contents(features, kept, assigned, confidence, directions, distances, prototypes, clusters, other, labels)


def _check(data: ReportData) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and features as arrays that fit the images."""
    probabilities, features = np.asarray(data.probabilities), np.asarray(data.features)
    num_images = len(data.paths)
    if not num_images:
        raise ValueError("a report needs at least one image")
    shapes = probabilities.shape, features.shape
    if any(len(shape) != 2 or shape[0] != num_images for shape in shapes):
        raise ValueError(f"a report of {num_images} images needs [N, C] and [N, D] arrays, not {shapes}")
    return probabilities, features


def _labels(data: ReportData, assigned: np.ndarray, confidence: np.ndarray, num_clusters: int) -> Labels | None:
    """What the labels say, None without any; classes that have no name are called by their number."""
    targets = None if data.targets is None else np.asarray(data.targets).astype(np.int64)
    if targets is None or not (targets >= 0).any():
        return None
    named = [clean(name) for name in data.classes]
    num_classes = max(int(targets.max()), *(label for _, label in data.matching or [(0, 0)])) + 1
    classes = named + [str(label) for label in range(len(named), num_classes)]
    return summary.summarize_labels(assigned, confidence, targets, classes, num_clusters, data.matching)
