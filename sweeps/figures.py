"""Pictures of a sweep: scores by setting, prototypes of every setting side by side, confusion matrices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from clustering.prediction import find_prototypes
from report.plots import NAME_LENGTH, arrange_confusion, picture, save_figure
from sweeps.plan import Job, Plan
from sweeps.runner import read_result
from sweeps.summary import COLUMNS, LABEL_FREE, label_free, label_free_score, present
from system.runtime import Runtime
from system.text import shown
from utils import clusters
from utils.common_config import get_val_dataset
from utils.readings import read_by

MAX_CLUSTERS = 40  # prototypes of one row
SHOWN = ("acc", "nmi", "ari", "purity@5", "num_clusters")


@picture
def draw_scores(path: Path, table: list[dict[str, Any]]) -> None:
    """Draw every run as a dot and every setting's mean as a line: scores by labels, and the label-free one."""
    names = present(table)
    panels = [name for name in (*SHOWN, label_free(names)) if name in names]
    figure = Figure(figsize=(max(4.0, 0.7 * len(table)) * 1.2, 2.2 * len(panels) + 1))
    keys = list(table[0]["setting"].values)
    labels = ["\n".join(shown(row["setting"].values[key], NAME_LENGTH) for key in keys) for row in table]
    for number, name in enumerate(panels, 1):
        axes = figure.add_subplot(len(panels), 1, number)
        scale = 100 if COLUMNS[name][1] else 1
        for place, row in enumerate(table):
            values = [scale * value for value in row["scores"].get(name, [])]
            if values:
                axes.plot([place] * len(values), values, "o", color="tab:blue", alpha=0.5, markersize=4)
                axes.hlines(float(np.mean(values)), place - 0.25, place + 0.25, color="tab:orange", linewidth=2)
        words = name.replace("_", " ") + "\n(no labels, lower is better)" * (name in LABEL_FREE)
        axes.set_ylabel(f"{name.upper()} %" if scale == 100 else words)
        axes.set_xlim(-0.6, len(table) - 0.4)
        axes.set_xticks(range(len(table)), labels if number == len(panels) else [""] * len(table))
        axes.grid(axis="y", alpha=0.3)
    figure.axes[-1].set_xlabel("\n".join(map(shown, keys)))  # a line of values above for every key
    save_figure(path, figure)


def best_run(runs: Sequence[Job]) -> Job | None:
    """The finished run with the lowest label-free score; the first of equals, and where a stage has no such score."""
    found = [(run, result) for run in runs if (result := read_result(run)) is not None]
    best = min(found, key=lambda one: label_free_score(one[1]), default=None)
    return best and best[0]


def draw_clusters(folder: Path, plan: Plan) -> list[Path]:
    """Draw prototypes and, with labels, confusion matrices of every setting's best run by the label-free score."""
    rows, matrices = [], []
    datasets: dict[str, Any] = {}
    for setting in plan.settings:
        run = best_run(setting.runs)
        if run is None:
            continue
        p = run.config()
        key = repr((p.train_db_name, p.val_db_name, p.train_db_kwargs, p.val_db_kwargs, p.transformation_kwargs))
        if key not in datasets:
            datasets[key] = get_val_dataset(p, reading=read_by(run.folder()))
        dataset = datasets[key]
        runtime = Runtime.of(p)
        model, head = clusters.load_for_prediction(p, p[f"{plan.stage}_model"], runtime)
        prediction = clusters.predict_split(p, model, head, dataset, runtime)
        chosen = find_prototypes(prediction.features, prediction.probabilities)
        scores = clusters.score_prediction(prediction, dataset)
        label_of = dict(scores.get("matching", []))
        order = sorted(chosen, key=lambda cluster: (label_of.get(cluster, len(label_of)), cluster))[:MAX_CLUSTERS]
        images = dataset.load(torch.tensor([chosen[cluster] for cluster in order]), "cpu")
        names = [dataset.classes[label_of[c]] if c in label_of and dataset.classes else str(c) for c in order]
        label = shown(setting.label)
        rows.append((label, images, [shown(name, 12) for name in names]))
        if scores:
            matrices.append((label, scores))
    drawn = []
    if rows and draw_prototypes(folder / "prototypes.png", rows):
        drawn.append(folder / "prototypes.png")
    if matrices and draw_matrices(folder / "confusion_matrices.png", matrices):
        drawn.append(folder / "confusion_matrices.png")
    return drawn


@picture
def draw_prototypes(path: Path, rows: list[tuple[str, torch.Tensor, list[str]]]) -> None:
    """Draw a row of images uint8 [P, 3, H, W] for every setting, each under its name."""
    num_columns = max(len(images) for _, images, _ in rows)
    figure = Figure(figsize=(0.8 * num_columns + 2, 1.15 * len(rows)))
    grid = figure.subplots(len(rows), num_columns, squeeze=False)
    for axes, (label, images, names) in zip(grid, rows, strict=True):
        for place in range(num_columns):
            axes[place].set_axis_off()
            if place < len(images):
                axes[place].imshow(images[place].permute(1, 2, 0).numpy(), interpolation="nearest")
                axes[place].set_title(names[place], fontsize=6, pad=2)
        axes[0].text(-0.15, 0.5, label, transform=axes[0].transAxes, ha="right", va="center", fontsize=8)
    save_figure(path, figure)


@picture
def draw_matrices(path: Path, matrices: list[tuple[str, dict[str, Any]]]) -> None:
    """Draw the confusion matrices of all settings side by side, under what varies and their accuracy."""
    num_columns = min(3, len(matrices))
    num_rows = -(-len(matrices) // num_columns)
    figure = Figure(figsize=(3.2 * num_columns, 3.4 * num_rows))
    for number, (label, scores) in enumerate(matrices, 1):
        shares, _ = arrange_confusion(scores["confusion"], scores["matching"])
        axes = figure.add_subplot(num_rows, num_columns, number)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(f"{label}\nACC {100 * scores['acc']:.1f} %", fontsize=8)
        axes.set_xlabel("cluster, in the order of its class", fontsize=7)
        axes.set_ylabel("true class", fontsize=7)
        axes.tick_params(labelsize=6)
    figure.tight_layout()
    save_figure(path, figure)
