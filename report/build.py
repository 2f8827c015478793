"""Build the page: numbers, charts and thumbnails go through one template into one file."""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from clustering.prediction import OTHER, find_prototypes
from report import charts, projection, summary, thumbnails, tree
from report.duplicates import exact_duplicates
from report.edits import fingerprint
from report.pages import FOLDER, fill, to_json
from report.summary import Cluster, Labels
from system.files import write_text

SHEET_BYTES, TILE_BYTES = 4_000_000, 8_500_000  # of the thumbnails, before base64 makes them a third larger
# In the order in which they run.
SCRIPTS = ("base", "page", "edits", "map", "sheet", "export", "groups", "find", "round")
NUM_NEIGHBORS = 8  # of an image, that the page knows
MAX_TABLE_CLASSES = 30  # beyond, the confusion matrix is not given as a table too
SURROGATE = re.compile("[\ud800-\udfff]")
PERCENT_SCORES = ("acc", "nmi", "ari", "ami", "top5")


@dataclass
class ReportData:
    """What a report is made of: plain data, nothing of the pipeline.

    Shapes: probabilities [N, C], features [N, D], targets [N] (−1 unknown) or None. `thumbnail(i)` gives image
    i (PIL, or uint8 [H, W, 3] or [3, H, W]), or raises UserError where it cannot be read any more. `matching` holds
    (cluster, class), None: the Hungarian one. `metrics` holds the lines of each stage's metrics.jsonl, `facts` how the
    result was made, `scores` what evaluation gave. Paths are shown as they are, and link to the files where
    `image_root` (the folder they are relative to) is given. `prototypes` maps clusters to images, None: found here.
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
    prototypes: dict[int, int] | None = None
    neighbors: np.ndarray | None = None
    unreadable: Sequence[str] | None = None
    tile: Callable[[int], thumbnails.Picture] | None = None
    whole: Callable[[int], thumbnails.Picture] | None = None
    verdict: Mapping[str, Any] | None = None
    left_out: np.ndarray | None = None


def clean(text: object) -> str:
    """Text that can be written as UTF-8: other bytes of a file name become the replacement character."""
    return SURROGATE.sub("\ufffd", str(text))


def flatten(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as (dotted name, text) rows."""
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            rows += flatten(value, f"{prefix}{key}.")
        else:
            rows.append((clean(f"{prefix}{key}"), clean(value)))
    return rows


def _link_base(path: Path, image_root: Path | None) -> str | None:
    """The address of the image folder as seen from the page: relative, so that both can be moved together."""
    if image_root is None:
        return None
    try:
        relative = os.path.relpath(image_root.resolve(), path.resolve().parent)
    except ValueError:  # another drive
        return image_root.resolve().as_uri() + "/"
    return "./" + quote(os.fsencode(Path(relative).as_posix())) + "/"


VERDICT = {"neighbors": "neighbors", "agreement": "agreement", "evenness": "evenness", "used": "in use"}


def _verdict(verdict: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The verdict as the page shows it: heads and rows of the table, the reason and the trust."""
    if not verdict:
        return None
    rows = verdict["candidates"]
    keys = [key for key in VERDICT if key in rows[0]]
    labelled = "acc_from_labels" in rows[0]
    table = [
        [
            clean(row["name"]),
            *(str(row[key]) if key == "used" else f"{row[key]:.3f}" if key in row else "–" for key in keys),
            *([f"{100 * row['acc_from_labels']:.1f} %"] if labelled else []),
        ]
        for row in rows
    ]
    heads = ["candidate", *(VERDICT[key] for key in keys), *(["ACC (labels only score)"] if labelled else [])]
    number = verdict.get("number")
    return {
        "heads": heads,
        "rows": table,
        "reason": clean(verdict["reason"]),
        "trust": clean(verdict["trust"]),
        "number": {**number, "sentence": clean(number["sentence"])} if number else None,
    }


def _score_rows(scores: Mapping[str, Any], num_clusters: int) -> list[tuple[str, str]]:
    shown = [key for key in PERCENT_SCORES if key != "top5" or num_clusters > 5]  # the best five of five say nothing
    rows = [(key.upper(), f"{100 * scores[key]:.1f} %") for key in shown if scores.get(key) is not None]
    return [(key.replace("TOP5", "Top-5"), value) for key, value in rows]


def _script(text: str) -> tuple[Markup, str]:
    """A script's text and its hash for the content security policy, which lets no other script run."""
    text = text.replace("\r\n", "\n")
    if "</script" in text.lower() or "<!--" in text:
        raise ValueError("the script would end early inside an HTML page")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"'sha256-{digest}'"


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


def _sprites(
    data: ReportData, clusters: list[Cluster], mistakes: list[int], order: np.ndarray
) -> tuple[list[thumbnails.Sprite], int]:
    """All thumbnails: a sprite a cluster, one of the confident mistakes, then small ones of all other images."""
    groups = [cluster.images() for cluster in clusters] + [mistakes]
    large = {index for group in groups for index in group}
    pictures, num_failed = thumbnails.read_pictures(data.thumbnail, large, thumbnails.SHEET_SIDE)
    sheets = thumbnails.make_sprites(pictures, groups, thumbnails.SHEET_SIDE, SHEET_BYTES)
    rest = [index for index in order.tolist() if index not in large]
    side = thumbnails.tile_side(len(rest))
    pictures, more_failed = thumbnails.read_pictures(data.tile or data.thumbnail, rest, side)
    tiles = thumbnails.make_sprites(pictures, thumbnails.split(rest), side, TILE_BYTES, thumbnails.TILE_LADDER)
    return sheets + tiles, num_failed + more_failed


def _base64(numbers: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(numbers).tobytes()).decode("ascii")


def _neighbors(data: ReportData, features: np.ndarray) -> dict[str, Any]:
    """The nearest images of each and the cosines of their features, as the page reads them."""
    if data.neighbors is None:
        return {"num": 0, "images": "", "cosines": "", "duplicates": []}
    nearest = np.asarray(data.neighbors)[:, 1 : 1 + NUM_NEIGHBORS]
    unit = summary.unit_rows(features)
    cosines = np.stack([np.einsum("nd,nd->n", unit, unit[column]) for column in nearest.T], axis=1)
    images = nearest.astype("<u2" if len(nearest) <= 65535 else "<u4")
    scaled = np.round(65535 * np.clip(cosines, 0, 1)).astype("<u2")
    duplicates = exact_duplicates(cosines[:, 0], data.tile or data.thumbnail, data.whole or data.thumbnail)
    return {
        "num": nearest.shape[1],
        "images": _base64(images),
        "cosines": _base64(scaled),
        "duplicates": duplicates,
    }


def _curves(metrics: Mapping[str, charts.Lines]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, str]]]:
    """The training charts by name, and the names by stage and group."""
    figures: dict[str, dict[str, Any]] = {}
    names: dict[str, dict[str, str]] = {}
    for stage, lines in metrics.items():
        for group, figure in charts.training_curves(lines).items():
            name = f"curves-{len(figures)}"
            figures[name] = figure
            names.setdefault(clean(stage), {})[group] = name
    return figures, names


def _fill(**values: Any) -> str:
    """Fill the template; style and scripts are in the page itself, and no other script may run there."""
    plotly, plotly_hash = _script(get_plotlyjs())
    own = [_script((FOLDER / "js" / f"{name}.js").read_text(encoding="utf-8")) for name in SCRIPTS]
    return fill(
        "template.html.j2",
        scripts=[plotly, *(script for script, _ in own)],
        script_hashes=" ".join([plotly_hash, *(digest for _, digest in own)]),
        plotly_version=version("plotly"),
        **values,
    )


def render(data: ReportData, link_base: str | None = None, seed: int = 0, has_table: bool = False) -> str:
    """Return the whole page as text; the same data and seed give the same text.

    `has_table` says that clusters.csv goes with the page, which label.py needs.
    """
    probabilities, features = _check(data)
    num_images, num_clusters = probabilities.shape
    kept = np.ones(num_images, dtype=bool) if data.left_out is None else ~np.asarray(data.left_out)
    nearest, confidence = probabilities.argmax(axis=1), np.where(kept, probabilities.max(axis=1), 0).astype(np.float64)
    assigned = np.where(kept, nearest, OTHER)
    prototypes = data.prototypes
    if prototypes is None:
        prototypes = find_prototypes(features, torch.tensor(probabilities), kept)
    directions = summary.mean_directions(assigned, features, num_clusters)
    clusters = summary.summarize_clusters(assigned, confidence, directions, prototypes, seed)
    labels = _labels(data, nearest, confidence, num_clusters)
    for cluster, name in (labels.names() if labels else {}).items():
        clusters[cluster].label = name

    on_map = projection.choose_points(num_images, sorted(prototypes.values()), seed)
    colors = [*charts.cluster_colors(num_clusters), charts.UNKNOWN]  # the last is that of OTHER, which is -1
    curve_figures, curves = _curves(data.metrics)
    figures = curve_figures | {
        "sizes": charts.cluster_sizes(clusters, colors[:-1]),
        "confidence": charts.confidence_histogram(confidence, kept, labels),
        "map": charts.image_map(projection.project(features[on_map], seed), assigned[on_map], colors),
    }
    if labels is not None:
        figures |= {"confusion": charts.confusion_matrix(labels), "accuracy": charts.class_accuracy(labels)}
    distances = summary.distances(assigned, features, directions)
    for one in clusters:
        one.distance = float(distances[assigned == one.index].mean()) if one.size else 0.0
    other = summary.summarize_other(assigned, distances, seed)
    cards = [cluster for cluster in [*clusters, other] if cluster.size]
    order = np.lexsort((-confidence, assigned))  # as sheets show them, so that few sprites are in sight
    sprites, num_failed = _sprites(data, cards, labels.mistakes if labels else [], order)
    neighbors = _neighbors(data, features)
    paths = [clean(path) for path in data.paths]
    facts = {
        "fingerprint": fingerprint(data.paths, assigned.tolist()),
        "paths": paths,
        "clusters": assigned.tolist(),
        "confidence": np.round(10_000 * confidence).astype(int).tolist(),
        "distance": np.round(10_000 * distances).astype(int).tolist(),
        "duplicates": neighbors["duplicates"],
        "unreadable": [clean(path) for path in data.unreadable or ()],
        "num_neighbors": neighbors["num"],
        "targets": labels.targets.tolist() if labels else None,
        "classes": labels.classes if labels else [],
        "names": [cluster.name for cluster in clusters],
        "map": on_map.tolist(),
        "colors": charts.cluster_colors(max(num_clusters, len(labels.classes) if labels else 0)),
        "links": link_base,
        # What a page cannot say in characters: the place of a file whose name is not UTF-8.
        "addresses": {i: quote(os.fsencode(path)) for i, path in enumerate(data.paths) if paths[i] != path},
        "sprites": [sprite.facts() for sprite in sprites],
    }
    return _fill(
        title=clean(data.title),
        facts_json=to_json(facts),
        figures_json=to_json(figures),
        sprites=[sprite.base64() for sprite in sprites],
        neighbors=neighbors,
        unreadable=None if data.unreadable is None else [clean(path) for path in data.unreadable],
        has_table=has_table,
        paths=paths,
        confidence=confidence,
        clusters=clusters,
        cards=cards,
        tree=tree.grow(clusters, directions),
        other=other,
        colors=colors,
        labels=labels,
        show_table=labels is not None and max(labels.table.shape) <= MAX_TABLE_CLASSES,
        curves=curves,
        verdict=_verdict(data.verdict),
        scores=_score_rows(data.scores, num_clusters),
        made=flatten(data.facts),
        num_images=num_images,
        num_map=len(on_map),
        mean_confidence=confidence[kept].mean() if kept.any() else 0.0,
        num_empty=sum(not cluster.size for cluster in clusters),
        num_failed=num_failed,
    )


def write_report(path: Path, data: ReportData, seed: int = 0) -> None:
    """Write the report of a clustering as one HTML file that asks for nothing outside itself.

    Raises ValueError when the arrays do not fit one another, UserError when the file cannot be written.
    """
    path = Path(path)
    has_table = (path.parent / "clusters.csv").is_file()
    write_text(path, render(data, _link_base(path, data.image_root), seed, has_table), listed=True)
