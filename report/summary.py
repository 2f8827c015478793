"""What the report says in numbers: each cluster's members and nearest; with labels, where it is wrong."""

from dataclasses import dataclass, field

import numpy as np
import torch

from clustering.prediction import OTHER
from clustering.scores import contingency, match

MAX_SHEET_IMAGES = 2400  # thumbnails in all sheets together, which bounds the size of the page
MAX_MEMBERS = 12  # images of one sheet
NUM_NEIGHBORS = 8  # of an image, that the page knows
NUM_NEAREST = 3
NUM_PAIRS = 15
NUM_MISTAKES = 24


@dataclass
class Cluster:
    """One cluster as its card shows it; `sheets` holds (heading, images), `nearest` (cluster, cosine).

    `distance` is the mean cosine distance of its images to their mean direction.
    """

    index: int
    size: int = 0
    confidence: float = 0.0
    distance: float = 0.0
    label: str | None = None
    prototype: int | None = None
    sheets: list[tuple[str, list[int]]] = field(default_factory=list)
    nearest: list[tuple[int, float]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The number, and the class that the cluster was matched with where labels are known."""
        if self.index == OTHER:
            return "Other"
        return f"Cluster {self.index}" + (f" · {self.label}" if self.label else "")

    def images(self) -> list[int]:
        """The images that the card shows, each once, the prototype first."""
        shown = [] if self.prototype is None else [self.prototype]
        return list(dict.fromkeys(shown + [i for _, members in self.sheets for i in members]))


@dataclass
class Labels:
    """What labels say about the clusters.

    Shapes: table [classes, clusters] (counts, columns in the order of `columns`), targets [N], correct [N] (bool).
    """

    accuracy: float
    num_labeled: int
    table: np.ndarray
    columns: list[int]
    classes: list[str]
    per_class: list[tuple[str, int, float | None]]
    pairs: list[tuple[str, str, int, float]]
    mistakes: list[int]
    targets: np.ndarray
    correct: np.ndarray
    class_of: dict[int, int]

    def names(self) -> dict[int, str]:
        """The name of the class that each matched cluster stands for."""
        return {cluster: self.classes[label] for cluster, label in self.class_of.items()}


def _sheets(members: np.ndarray, num: int, generator: np.random.Generator) -> list[tuple[str, list[int]]]:
    """Cut a cluster's members, the most confident first, into sheets; one of at most three sheets is shown whole."""
    if len(members) <= 3 * num:
        return [("All members, most confident first", members.tolist())]
    return [
        ("Most confident", members[:num].tolist()),
        ("Least confident", members[: -num - 1 : -1].tolist()),
        ("Random", generator.choice(members, num, replace=False).tolist()),
    ]


def unit_rows(features: np.ndarray) -> np.ndarray:
    """L2-normalize rows; values that are not finite count as 0."""
    rows = np.nan_to_num(np.asarray(features))
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def mean_directions(clusters: np.ndarray, features: np.ndarray, num_clusters: int) -> np.ndarray:
    """Return the mean of each cluster's unit features as a unit vector [K, D]; of an empty cluster zeros.

    Shapes: clusters [N] (int), features [N, D].
    """
    found = np.zeros((num_clusters, features.shape[1]))
    for cluster in range(num_clusters):
        members = np.flatnonzero(clusters == cluster)
        if len(members):
            mean = unit_rows(np.asarray(features[members], dtype=np.float64)).mean(axis=0)
            found[cluster] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return found


def distances(clusters: np.ndarray, features: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Every image's cosine distance to the mean direction [K, D] of its cluster, [N], 0..2.

    For an image that is left out, to the nearest one.
    """
    found = np.zeros(len(clusters))
    others = np.flatnonzero(clusters == OTHER)
    nearest = np.full(len(others), 2.0)
    for cluster, direction in enumerate(directions):
        members = np.flatnonzero(clusters == cluster)
        if len(members):
            found[members] = 1 - unit_rows(features[members]) @ direction
            nearest = np.minimum(nearest, 1 - unit_rows(features[others]) @ direction)
    found[others] = nearest
    return found


def summarize_other(clusters: np.ndarray, distances: np.ndarray, seed: int) -> Cluster:
    """Describe the images that are left out of all clusters, [N] each, the farthest first."""
    members = np.flatnonzero(clusters == OTHER)
    members = members[np.argsort(-distances[members], kind="stable")]
    shown = [("Farthest from all clusters", members[:MAX_MEMBERS].tolist())] if len(members) else []
    if len(members) > MAX_MEMBERS:
        others = np.random.default_rng([seed, len(clusters)]).choice(members, MAX_MEMBERS, replace=False)
        shown.append(("Random", others.tolist()))
    return Cluster(
        OTHER, len(members), distance=float(distances[members].mean()) if len(members) else 0.0, sheets=shown
    )


def _link_nearest(found: list[Cluster], directions: np.ndarray) -> None:
    """Give every cluster the ones whose mean directions have the largest cosine with its own."""
    for row, cluster in enumerate(found):
        similarity = directions @ directions[row]
        similarity[row] = -np.inf
        nearest = np.argsort(-similarity, kind="stable")[: min(NUM_NEAREST, len(found) - 1)]
        cluster.nearest = [(found[i].index, float(similarity[i])) for i in nearest]


def summarize_clusters(
    clusters: np.ndarray,
    confidence: np.ndarray,
    directions: np.ndarray,
    prototypes: dict[int, int],
    seed: int,
) -> list[Cluster]:
    """Describe every cluster, the empty ones too.

    Shapes: clusters [N] (int), confidence [N], directions [K, D]. Of very many clusters only the largest get sheets.
    """
    num_clusters = len(directions)
    order = np.lexsort((np.arange(len(clusters)), -confidence, clusters))
    bounds = np.searchsorted(clusters[order], np.arange(num_clusters + 1))
    sizes = np.diff(bounds)
    filled = int((sizes > 0).sum())
    num = int(np.clip(MAX_SHEET_IMAGES // (3 * max(filled, 1)), 2, MAX_MEMBERS))
    with_sheets = set(np.argsort(-sizes, kind="stable")[: MAX_SHEET_IMAGES // (3 * num)].tolist())
    result = []
    for index in range(num_clusters):
        cluster = Cluster(index, size=int(sizes[index]))
        result.append(cluster)
        if not cluster.size:
            continue
        members = order[bounds[index] : bounds[index + 1]]
        cluster.confidence = float(confidence[members].mean())
        if index in with_sheets:
            cluster.prototype = prototypes.get(index)
            cluster.sheets = _sheets(members, num, np.random.default_rng([seed, index]))
    _link_nearest([cluster for cluster in result if cluster.size], directions[sizes > 0])
    return result


def summarize_labels(
    clusters: np.ndarray,
    confidence: np.ndarray,
    targets: np.ndarray,
    classes: list[str],
    num_clusters: int,
    matching: list[tuple[int, int]] | None = None,
) -> Labels:
    """Compare clusters with labels (−1 unknown) under a matching of (cluster, class) pairs.

    Without a matching the Hungarian one is taken. A cluster matched with no class is wrong for every image.
    """
    counts = contingency(torch.tensor(clusters), torch.tensor(targets), num_clusters, len(classes)).numpy()
    table = counts.T
    if matching is None:
        matching = match(counts)
    # A square matching gives every cluster a class, an empty one too, which has nothing to be named by.
    class_of = {int(cluster): int(label) for cluster, label in matching if counts[cluster].any()}
    cluster_of = {label: cluster for cluster, label in class_of.items()}
    predicted = np.array([class_of.get(c, -1) for c in range(num_clusters)])[clusters]
    known = targets >= 0
    correct = known & (predicted == targets)
    totals = table.sum(axis=1)
    right = [int(table[k, cluster_of[k]]) if k in cluster_of else 0 for k in range(len(classes))]

    confused = table.copy()
    for label, cluster in cluster_of.items():
        confused[label, cluster] = 0
    cells = np.argsort(-confused, axis=None, kind="stable")[:NUM_PAIRS]
    pairs = []
    for label, cluster in zip(*np.unravel_index(cells, confused.shape), strict=True):
        if confused[label, cluster]:
            taken = classes[class_of[cluster]] if cluster in class_of else f"cluster {cluster} (no class)"
            count = int(confused[label, cluster])
            pairs.append((classes[label], taken, count, count / int(totals[label])))

    wrong = np.flatnonzero(known & ~correct)
    columns = [cluster_of[k] for k in range(len(classes)) if k in cluster_of]
    columns += [c for c in range(num_clusters) if c not in class_of]
    return Labels(
        accuracy=float(correct.sum() / known.sum()),
        num_labeled=int(known.sum()),
        table=table[:, columns],
        columns=columns,
        classes=classes,
        per_class=[
            (name, int(totals[k]), right[k] / int(totals[k]) if totals[k] else None) for k, name in enumerate(classes)
        ],
        pairs=pairs,
        mistakes=wrong[np.argsort(-confidence[wrong], kind="stable")][:NUM_MISTAKES].tolist(),
        targets=targets,
        correct=correct,
        class_of=class_of,
    )
