"""Build the page: numbers, charts and thumbnails go through one template into one file."""

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from report import charts, projection, summary, thumbnails, tree
from report.contents import Contents, ReportData, clean, find_contents
from report.duplicates import exact_duplicates
from report.edits import fingerprint
from report.pages import FOLDER, fill, to_json
from report.summary import NUM_NEIGHBORS, Cluster
from system.files import write_text

SHEET_BYTES, TILE_BYTES = 4_000_000, 8_500_000  # of the thumbnails, before base64 makes them a third larger
# In the order in which they run.
SCRIPTS = ("base", "page", "edits", "map", "sheet", "export", "groups", "find", "round")
MAX_TABLE_CLASSES = 30  # beyond, the confusion matrix is not given as a table too
PERCENT_SCORES = ("acc", "nmi", "ari", "ami", "top5")


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
    labeled = "acc_from_labels" in rows[0]
    table = [
        [
            clean(row["name"]),
            *(str(row[key]) if key == "used" else f"{row[key]:.3f}" if key in row else "–" for key in keys),
            *([f"{100 * row['acc_from_labels']:.1f} %"] if labeled else []),
        ]
        for row in rows
    ]
    heads = ["candidate", *(VERDICT[key] for key in keys), *(["ACC (labels only score)"] if labeled else [])]
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


def _figures(data: ReportData, found: Contents, on_map: np.ndarray, seed: int) -> dict[str, dict[str, Any]]:
    """The charts by name, but for the curves; `on_map` are the images of the map."""
    colors = _colors(found)
    figures = {
        "sizes": charts.cluster_sizes(found.clusters, colors[:-1]),
        "confidence": charts.confidence_histogram(found.confidence, found.kept, found.labels),
        "map": charts.image_map(projection.project(found.features[on_map], seed), found.assigned[on_map], colors),
    }
    if found.labels is None:
        return figures
    return figures | {
        "confusion": charts.confusion_matrix(found.labels),
        "accuracy": charts.class_accuracy(found.labels),
    }


def _colors(found: Contents) -> list[str]:
    """A color for each cluster; the last is that of OTHER, which is -1."""
    return [*charts.cluster_colors(len(found.clusters)), charts.UNKNOWN]


def _facts(
    data: ReportData, found: Contents, on_map: np.ndarray, duplicates: Any, sprites: Sequence[thumbnails.Sprite]
) -> dict[str, Any]:
    """What the page's scripts know of every image."""
    labels = found.labels
    paths = [clean(path) for path in data.paths]
    return {
        "fingerprint": fingerprint(data.paths, found.assigned.tolist()),
        "paths": paths,
        "clusters": found.assigned.tolist(),
        "confidence": np.round(10_000 * found.confidence).astype(int).tolist(),
        "distance": np.round(10_000 * found.distances).astype(int).tolist(),
        "duplicates": duplicates,
        "unreadable": [clean(path) for path in data.unreadable or ()],
        "targets": labels.targets.tolist() if labels else None,
        "classes": labels.classes if labels else [],
        "names": [cluster.name for cluster in found.clusters],
        "map": on_map.tolist(),
        "colors": charts.cluster_colors(max(len(found.clusters), len(labels.classes) if labels else 0)),
        # What a page cannot say in characters: the place of a file whose name is not UTF-8.
        "addresses": {i: quote(os.fsencode(path)) for i, path in enumerate(data.paths) if paths[i] != path},
        "sprites": [sprite.facts() for sprite in sprites],
    }


def render(data: ReportData, link_base: str | None = None, seed: int = 0, has_table: bool = False) -> str:
    """Return the whole page as text; the same data and seed give the same text.

    `has_table` says that clusters.csv goes with the page, which label.py needs.
    """
    found = find_contents(data, seed)
    labels, kept, confidence = found.labels, found.kept, found.confidence
    on_map = projection.choose_points(found.num_images, sorted(found.prototypes.values()), seed)
    sprites, num_failed = _sprites(data, found.cards, labels.mistakes if labels else [], found.order)
    neighbors = _neighbors(data, found.features)
    facts = _facts(data, found, on_map, neighbors["duplicates"], sprites)
    curve_figures, curves = _curves(data.metrics)
    return _fill(
        title=clean(data.title),
        facts_json=to_json({**facts, "num_neighbors": neighbors["num"], "links": link_base}),
        figures_json=to_json(curve_figures | _figures(data, found, on_map, seed)),
        sprites=[sprite.base64() for sprite in sprites],
        neighbors=neighbors,
        unreadable=None if data.unreadable is None else facts["unreadable"],
        has_table=has_table,
        paths=facts["paths"],
        confidence=confidence,
        clusters=found.clusters,
        cards=found.cards,
        tree=tree.grow(found.clusters, found.directions),
        other=found.other,
        colors=_colors(found),
        labels=labels,
        show_table=labels is not None and max(labels.table.shape) <= MAX_TABLE_CLASSES,
        curves=curves,
        verdict=_verdict(data.verdict),
        scores=_score_rows(data.scores, len(found.clusters)),
        made=flatten(data.facts),
        num_images=found.num_images,
        num_map=len(on_map),
        mean_confidence=confidence[kept].mean() if kept.any() else 0.0,
        num_empty=sum(not cluster.size for cluster in found.clusters),
        num_failed=num_failed,
    )


def write_report(path: Path, data: ReportData, seed: int = 0) -> None:
    """Write the report of a clustering as one HTML file that asks for nothing outside itself.

    Raises ValueError when the arrays do not fit one another, UserError when the file cannot be written.
    """
    path = Path(path)
    has_table = (path.parent / "clusters.csv").is_file()
    write_text(path, render(data, _link_base(path, data.image_root), seed, has_table), listed=True)
