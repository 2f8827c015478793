"""Pictures of results, as PNG files: nothing opens a window, so they work on any server.

What draws one is a `picture`: no text in it is markup, and a picture that fails is a warning, not the end of a run.
"""

import functools
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from system.console import warn
from system.files import write_file
from system.text import shown

READABLE = 25  # rows or columns up to which every cell has its number and every tick its name
LABEL_WIDTH = 16  # characters of a label that fit over an image
NAME_LENGTH = 60  # characters of a name next to an axis
DPI = 150


Arguments = ParamSpec("Arguments")


def picture(draw: Callable[Concatenate[Path, Arguments], Any]) -> Callable[Concatenate[Path | str, Arguments], bool]:
    """A function that draws a picture to a path, which then never raises an error: it warns, and returns False.

    All texts are taken literally, a `$` in them too.
    """

    @functools.wraps(draw)
    def drawn(path: Path | str, *args: Arguments.args, **kwargs: Arguments.kwargs) -> bool:
        literal = matplotlib.rc_context({"text.parse_math": False, "text.usetex": False})
        try:
            with literal, warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of characters that the font lacks
                draw(Path(path), *args, **kwargs)
        except Exception as error:  # a picture is worth less than the run it shows
            warn(f"the picture {shown(path)} could not be drawn: {str(error) or type(error).__name__}")
            return False
        return True

    return drawn


def save_figure(path: Path, figure: Figure) -> None:
    """Write the figure of a `picture` as a PNG file; what was there before stays when that fails."""
    FigureCanvasAgg(figure)
    write_file(
        path, lambda file: figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight"), record=False, listed=True
    )


def arrange_confusion(table: np.ndarray | Tensor, matching: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Turn a table of counts int [C, K] (clusters x classes) into what the confusion matrix shows.

    Returns shares float64 [K, C] whose rows, the true classes, sum to 1 (0 for a class without samples), and the order
    of the clusters in their columns: first those matched to class 0, 1, ..., then the unmatched ones.
    """
    counts = np.asarray(table, dtype=np.float64)
    matched = [cluster for cluster, _ in sorted(matching, key=lambda pair: pair[1])]
    order = np.array([*matched, *sorted(set(range(len(counts))) - set(matched))], dtype=np.int64)
    shares = counts[order].T
    return shares / np.maximum(1, shares.sum(1, keepdims=True)), order


@picture
def confusion_matrix(
    path: Path, table: np.ndarray | Tensor, classes: list[str], matching: list[tuple[int, int]]
) -> None:
    """Draw how the samples of each true class (a row, summing to 1) spread over the clusters, as a PNG file.

    table int [C, K] counts of clusters x classes; matching as (cluster, class) pairs. Up to 25 classes have names.
    """
    shares, order = arrange_confusion(table, matching)
    num_classes, num_clusters = shares.shape
    readable = max(shares.shape) <= READABLE
    cell = 0.5 if readable else 7 / max(shares.shape)
    figure = Figure(figsize=(max(3.5, cell * num_clusters) + 1, max(2.5, cell * num_classes)))
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("cluster, in the order of its matched class")
    axes.set_ylabel("true class")
    axes.set_xticks([])
    axes.set_yticks([])
    if readable:
        axes.set_xticks(range(num_clusters), [str(cluster) for cluster in order])
        axes.set_yticks(range(num_classes), [shown(name, NAME_LENGTH) for name in classes])
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                color = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=color, fontsize=7)
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, label="share of the class")
    save_figure(path, figure)


def _sheet(path: Path, images: Tensor | np.ndarray, titles: list[str], num_columns: int, title_lines: int) -> None:
    """Lay images uint8 [P, 3, H, W] out row by row, each under its title, with room for that many lines of it."""
    pictures = torch.as_tensor(images).cpu().permute(0, 2, 3, 1).numpy()
    shape = pictures.shape[1] / pictures.shape[2]
    gap, step = 0.06, shape + 0.06 + 0.13 * title_lines  # in widths of an image
    num_rows = -(-len(pictures) // num_columns)
    figure = Figure(figsize=(1.05 * num_columns * (1 + gap), 1.05 * (num_rows * step + 0.15)))
    axes = figure.add_axes((0, 0, 1, 1))
    for place, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        left, bottom = place % num_columns * (1 + gap), -(place // num_columns) * step
        axes.imshow(picture, extent=(left, left + 1, bottom, bottom + shape), interpolation="nearest")
        axes.text(left + 0.5, bottom + shape + 0.03, title, ha="center", va="bottom", fontsize=7, linespacing=1.0)
    axes.set_xlim(-gap, num_columns * (1 + gap))
    axes.set_ylim(-(num_rows - 1) * step - gap, shape + 0.03 + 0.13 * max(1, title_lines))
    axes.set_axis_off()
    save_figure(path, figure)


@picture
def image_sheet(path: Path, images: Tensor | np.ndarray, titles: list[str] | None = None) -> None:
    """Draw rows of images under the titles of their columns as a PNG file.

    images uint8 [R, K + 1, 3, H, W]: unless titles say otherwise, a row shows an image, then its neighbors by falling
    similarity.
    """
    images = torch.as_tensor(images)
    num_rows, num_columns = images.shape[:2]
    titles = [shown(title, NAME_LENGTH) for title in titles or []] or [
        "image",
        *(f"neighbor {k}" for k in range(1, num_columns)),
    ]
    _sheet(path, images.flatten(0, 1), titles + [""] * (num_columns * (num_rows - 1)), num_columns, 0)


@picture
def prototype_sheet(path: Path, images: Tensor | np.ndarray, labels: list[str]) -> None:
    """Draw one image per cluster, uint8 [P, 3, H, W] with P >= 1, each under its label, as one PNG file."""
    titles = ["\n".join(textwrap.wrap(shown(label), LABEL_WIDTH, max_lines=3, placeholder="…")) for label in labels]
    num_columns = min(len(images), 10 if len(images) <= 200 else 25)
    _sheet(path, images, titles, num_columns, max(title.count("\n") for title in titles) + 1)


@picture
def purity_curve(path: Path, purity: dict[int, float], title: str = "") -> None:
    """Draw the share of neighbors with the same label against their number K, as a PNG file."""
    figure = Figure(figsize=(5, 3.2))
    axes = figure.add_subplot()
    ks = sorted(purity)
    axes.plot(ks, [purity[k] for k in ks], marker="o", markersize=3.5)
    axes.set_xlabel("neighbors K")
    axes.set_ylabel("share with the same label")
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.set_title(shown(title), fontsize=10)
    save_figure(path, figure)


@picture
def explained_variance(path: Path, shares: Tensor) -> None:
    """Draw the share of the variance that the first 1, 2, … components hold, float [d] rising to 1, as a PNG file."""
    figure = Figure(figsize=(5, 3.2))
    axes = figure.add_subplot()
    axes.plot(range(1, len(shares) + 1), shares.tolist(), marker="o", markersize=2.5)
    axes.set_xlabel("principal components")
    axes.set_ylabel("share of the variance")
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    save_figure(path, figure)


@picture
def number_curves(path: Path, curves: Mapping[str, Sequence[float]], chosen: int, low: int, high: int) -> None:
    """Draw what is known without labels of clusterings against their number K, as a PNG file.

    `curves` holds the numbers as num_clusters, and values by name; the chosen number is a line, the range a band.
    """
    numbers = curves["num_clusters"]
    figure = Figure(figsize=(6, 3.6))
    axes = figure.add_subplot()
    for name, values in curves.items():
        if name != "num_clusters":
            axes.plot(numbers, values, marker="o", markersize=3.5, label=shown(name))
    axes.axvspan(low - 0.2, high + 0.2, color="gray", alpha=0.15)
    axes.axvline(chosen, color="black", linewidth=1)
    axes.set_xscale("log")
    ticks = [k for i, k in enumerate(numbers) if i == 0 or k >= 1.12 * numbers[i - 1] or k == chosen]
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    axes.set_xlabel("clusters K")
    axes.set_ylim(min(0.0, *(min(values) for values in curves.values())), 1.02)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(path, figure)
