"""The report's charts as Plotly figures; colors that depend on light or dark are set by the page."""

import colorsys
import html
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from report.summary import Cluster, Labels

NUM_BINS = 40
MAX_NAME = 24
MAX_TICKS = 30
MAX_LINES = 12  # of one training chart
LUMINANCES = (0.2, 0.27, 0.15)  # of cluster colors: at least 3:1 against the light and against the dark page
GOLDEN = 0.618034
MAX_CELLS_HOVER = 10_000  # cells of the confusion matrix that say their counts
MAX_NAMED_CELLS = 20  # rows or columns of one that shows its numbers
RIGHT, WRONG, UNKNOWN = "#2f74d6", "#d4581c", "#7b828c"
LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}

Lines = Sequence[Mapping[str, Any]]


def _luminance(rgb: tuple[float, float, float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def cluster_colors(num_clusters: int) -> list[str]:
    """One color a cluster (#rrggbb), their hues far apart."""
    colors = []
    for index in range(num_clusters):
        hue, saturation = (0.6 + index * GOLDEN) % 1, (0.8, 0.55, 0.95)[index % 3]
        low, high, wanted = 0.0, 1.0, LUMINANCES[index % 3]
        for _ in range(20):
            middle = (low + high) / 2
            dark = _luminance(colorsys.hls_to_rgb(hue, middle, saturation)) < wanted
            low, high = (middle, high) if dark else (low, middle)
        rgb = colorsys.hls_to_rgb(hue, low, saturation)
        colors.append("#" + "".join(f"{round(c * 255):02x}" for c in rgb))
    return colors


def plain(text: str, length: int = MAX_NAME) -> str:
    """Text as Plotly shows it literally (it reads a little HTML in labels), shortened in the middle."""
    if len(text) > length:
        text = f"{text[: length // 2]}…{text[-(length // 2 - 1) :]}"
    return html.escape(text, quote=False)


def _figure(traces: list[Any], x_title: str, y_title: str, **layout: Any) -> dict[str, Any]:
    figure = go.Figure(traces)
    figure.update_layout(
        template="none",
        margin={"l": 8, "r": 20, "t": 8, "b": 8},
        showlegend=False,
        dragmode=False,
        hovermode="closest",
        xaxis={"title": {"text": x_title}, "automargin": True, "zeroline": False},
        yaxis={"title": {"text": y_title}, "automargin": True, "zeroline": False},
    )
    figure.update_layout(**layout)
    # Its own JSON brings NumPy arrays into a compact form and is the same for the same figure.
    return json.loads(figure.to_json())


def _names_axis(names: list[str]) -> dict[str, Any]:
    """Ticks for places 0, 1, …; names that would not fit side by side are thinned out."""
    step = math.ceil(len(names) / MAX_TICKS)
    places = list(range(0, len(names), step))
    texts = [plain(names[i], 16) for i in places]
    return {"tickvals": places, "ticktext": texts, "autotickangles": [0, 90]}


def cluster_sizes(clusters: list[Cluster], colors: list[str]) -> dict[str, Any]:
    """Bars: the number of images in every cluster."""
    names = [f"{c.index} · {c.label}" if c.label else str(c.index) for c in clusters]
    bars = go.Bar(
        x=list(range(len(clusters))),
        y=[cluster.size for cluster in clusters],
        marker={"color": colors},
        hovertext=[f"{plain(c.name, 60)}: {c.size:,} images" for c in clusters],
        hoverinfo="text",
    )
    return _figure([bars], "cluster", "images", xaxis=_names_axis(names), bargap=0.15)


def confidence_histogram(confidence: np.ndarray, kept: np.ndarray, labels: Labels | None) -> dict[str, Any]:
    """Bars: how many images have which confidence, split by right and wrong where labels are known.

    kept, bool [N], is which images are in a cluster; the others have no confidence.
    """
    edges = np.linspace(0, 1, NUM_BINS + 1)
    parts: dict[str, tuple[np.ndarray, str | None]] = {"images": (kept, None)}
    if labels is not None:
        parts = {
            "right": (labels.correct, RIGHT),
            "wrong": ((labels.targets >= 0) & ~labels.correct, WRONG),
            "no label": (labels.targets < 0, UNKNOWN),
        }
    bars = [
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=np.histogram(confidence[mask & kept], bins=edges)[0],
            name=name,
            marker={"color": color} if color else None,
            hovertemplate=f"confidence about %{{x:.3f}}: %{{y:,}} {name}<extra></extra>",
        )
        for name, (mask, color) in parts.items()
        if (mask & kept).any()
    ]
    return _figure(
        bars,
        "confidence",
        "images",
        barmode="stack",
        bargap=0.05,
        showlegend=len(bars) > 1,
        legend={**LEGEND, "traceorder": "normal"},
        xaxis={"range": [0, 1], "tickformat": ".0%"},
    )


def image_map(points: np.ndarray, clusters: np.ndarray, colors: list[str]) -> dict[str, Any]:
    """Points [N, 2] colored by cluster; the page adds the thumbnail of the one pointed at or in focus."""
    images = go.Scatter(
        x=np.round(points[:, 0], 4).tolist(),
        y=np.round(points[:, 1], 4).tolist(),
        mode="markers",
        hoverinfo="none",
        marker={
            "color": [colors[c] for c in clusters],
            "size": 9 if len(points) <= 500 else 6 if len(points) <= 2000 else 4.5,
            "opacity": 0.85,
            "line": {"width": 0},
        },
    )
    current = go.Scatter(
        x=[],
        y=[],
        mode="markers",
        hoverinfo="skip",
        marker={"size": 18, "symbol": "circle-open", "line": {"width": 3}},
    )
    hidden = {"visible": False, "range": [-1.05, 1.05]}
    square = {**hidden, "scaleanchor": "x"}
    return _figure([images, current], "", "", xaxis=hidden, yaxis=square, margin={"l": 0, "r": 0, "t": 0, "b": 0})


def confusion_matrix(labels: Labels) -> dict[str, Any]:
    """Heat map of classes × clusters, in percent of each class; with numbers in it while they fit."""
    totals = labels.table.sum(axis=1, keepdims=True)
    shares = labels.table / np.maximum(totals, 1)
    num_rows, num_columns = shares.shape
    columns = [str(cluster) for cluster in labels.columns]
    details: dict[str, Any] = {"hovertemplate": "%{z} %<extra></extra>"}
    if shares.size <= MAX_CELLS_HOVER:
        hover = [
            [
                f"{plain(name)}, cluster {columns[c]}: {labels.table[r, c]:,} images ({shares[r, c]:.1%})"
                for c in range(num_columns)
            ]
            for r, name in enumerate(labels.classes)
        ]
        details = {"hovertext": hover, "hoverinfo": "text"}
    if max(shares.shape) <= MAX_NAMED_CELLS:
        text = [[f"{100 * v:.0f}" if v >= 0.005 else "" for v in row] for row in shares]
        details |= {"text": text, "texttemplate": "%{text}"}
    gap = 1 if max(shares.shape) <= 50 else 0
    percent = np.round(100 * shares).astype(np.uint8)  # one byte a cell: there may be a million
    cells = go.Heatmap(z=percent, zmin=0, zmax=100, showscale=False, xgap=gap, ygap=gap, **details)
    rows = {**_names_axis(labels.classes), "autorange": "reversed", "showgrid": False}
    return _figure(
        [cells],
        "cluster",
        "",
        xaxis={**_names_axis(columns), "showgrid": False},
        yaxis=rows,
        height=int(np.clip(120 + 32 * num_rows, 280, 760)),
    )


def class_accuracy(labels: Labels) -> dict[str, Any]:
    """Bars: the share of each class's images that are in the cluster matched with it."""
    names = [name for name, _, _ in labels.per_class]
    bars = go.Bar(
        x=list(range(len(names))),
        y=[accuracy or 0 for _, _, accuracy in labels.per_class],
        hovertext=[
            f"{plain(name)}: " + ("no images" if accuracy is None else f"{accuracy:.1%} of {total:,} images")
            for name, total, accuracy in labels.per_class
        ],
        hoverinfo="text",
    )
    return _figure([bars], "class", "", xaxis=_names_axis(names), yaxis={"range": [0, 1], "tickformat": ".0%"})


# What the stages write about an epoch, by the chart that shows it; other numbers are together in one more.
GROUPS: dict[str, tuple[str, ...]] = {
    "losses": ("loss",),
    "consistency and entropy": ("consistency", "entropy"),
    # Apart: the training loss is a sum over heads, with a weighted entropy.
    "validation loss": ("val_loss",),
    "scores": ("knn_acc", "acc_from_labels"),
    "confident images": ("confident",),
    "confident images of each cluster": ("confident_per_cluster",),
    "skipped batches": ("skipped_batches",),
    "learning rate": ("lr",),
}
WORDS = {
    "val_loss": "validation loss",
    "knn_acc": "k-NN accuracy (labels only score)",
    "acc_from_labels": "accuracy (labels only score)",
    "confident": "confident images",
    "skipped_batches": "skipped batches",
    "lr": "learning rate",
}
OTHER_NUMBERS = "other numbers"
NOT_DRAWN = ("epoch", "head")  # the place, and which head was best
NUM_EPOCH_TICKS = 8
FROM_ZERO = ("confident images", "confident images of each cluster", "skipped batches", "learning rate")


def _curves(lines: Lines, key: str) -> list[tuple[str, list[int], Sequence[float]]]:
    """Name, epochs and values of a key: one curve, or one a cluster where its values are lists."""
    having = [line for line in lines if key in line]
    epochs, values = [line["epoch"] for line in having], [line[key] for line in having]
    if values and isinstance(values[0], list):
        return [(str(cluster), epochs, column) for cluster, column in enumerate(zip(*values, strict=True))]
    return [(WORDS.get(key, key), epochs, values)] if values else []


def _epoch_axis(epochs: Sequence[int]) -> dict[str, Any]:
    """Ticks at whole epochs, a round number apart."""
    span = max(max(epochs) - min(epochs), 1)
    steps = (factor * 10**power for power in itertools.count() for factor in (1, 2, 5))
    return {"tick0": 0, "dtick": next(step for step in steps if span / step <= NUM_EPOCH_TICKS), "tickformat": ",d"}


def training_curves(lines: Lines) -> dict[str, dict[str, Any]]:
    """One chart for each group of numbers in a stage's metrics; values that are not finite leave a gap."""
    charts = {}
    known = {key for keys in GROUPS.values() for key in keys}.union(NOT_DRAWN)
    numbers = dict.fromkeys(key for line in lines for key, value in line.items() if isinstance(value, int | float))
    groups = GROUPS | {OTHER_NUMBERS: tuple(key for key in numbers if key not in known)}
    for group, keys in groups.items():
        curves = [curve for key in keys for curve in _curves(lines, key)][:MAX_LINES]
        if not curves:
            continue
        traces = []
        for (name, x, y), color in zip(curves, cluster_colors(len(curves)), strict=True):
            mode = "lines" if len(x) > 60 else "lines+markers"
            style = {"line": {"color": color, "width": 2}, "marker": {"color": color, "size": 5}}
            traces.append(go.Scatter(x=x, y=y, name=name, mode=mode, **style))
        charts[group] = _figure(traces, "epoch", "", showlegend=True, legend=LEGEND, hovermode="x")
        charts[group]["layout"]["xaxis"] |= _epoch_axis([epoch for _, epochs, _ in curves for epoch in epochs])
        if group in FROM_ZERO:
            charts[group]["layout"]["yaxis"]["rangemode"] = "tozero"
    return charts
