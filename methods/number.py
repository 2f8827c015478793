"""Find how many clusters there are in given features, without a label, and say whether the answer is sure.

    python -m methods.number --config_exp configs/methods/number_digits.yml
    python -m methods.number --config_exp configs/methods/number_cifar10.yml method_kwargs.high=30 run_name=to30

Starts from the features and neighbors of a pretext run. A geometric grid of numbers, then every number around its best
one, is clustered several times: K-means on random halves, on whitened components, on a neighbor graph and on a map, and
SCAN heads. Writes run.json and number.png, the curves of agreement, silhouette and generalisation, to
{root_dir}/{train_db_name}/number.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clustering.number import SMALLEST, Choice, Point, check_range, choose, search
from methods.independent import Spaces, cluster, measure, prepare
from report import plots
from report.compare import MOST_SHOWN
from system.console import say
from system.runtime import one_thread
from system.sections import Positive
from training.run import Run
from utils import cli, mined
from utils.common_config import get_backbone, get_splits, split_by_network
from utils.stage import run_stage

PICTURE = "number.png"


def sheet(spaces: Spaces, clusters: Tensor) -> list[tuple[int, int]]:
    """Return a size and an image for each cluster int64 [n] of the map, the largest first: the one in its middle."""
    points, found = torch.from_numpy(spaces.map), []
    for number in clusters.unique():
        rows = (clusters == number).nonzero()[:, 0]
        middle = (points[rows] - points[rows].mean(0)).norm(dim=1).argmin()
        found.append((len(rows), int(spaces.rows[rows[middle]])))
    return sorted(found, reverse=True)


def count_clusters(
    spaces: Sequence[Tensor], low: int, high: int, seed: int = 0, say: Callable[[str], None] = lambda words: None
) -> tuple[list[Point], Choice, dict[int, list[tuple[int, int]]]]:
    """Find the number of clusters from low to high in features [N, D] of one space or several.

    One more on either side is tried, where there is one, so that the ends can be peaks. `say` is told what runs next.
    Returns the points by rising K, the choice, and a sheet of every K.
    """
    sheets: dict[int, list[tuple[int, int]]] = {}
    first, last = max(SMALLEST, low - 1), max(SMALLEST, min(high + 1, len(spaces[0]) // 2))
    with one_thread():
        say("drawing the map of the images")
        prepared = prepare(spaces, last, seed)

        def told(number: int) -> Point:
            say(f"clustering into {number}")
            found = cluster(prepared, number, seed)
            sheets[number] = sheet(prepared, found[0])
            return measure(prepared, number, found)

        points = search(told, first, last)
    return points, choose(points, low, high), sheets


def train(p: Any, run: Run, low: Positive = SMALLEST, high: Positive | None = None) -> dict[str, Any]:
    """Find the number of clusters in the features of the pretext run; returns the curves and the choice.

    Args:
        low: the smallest number that is looked at.
        high: the largest one; by default 50 or a 20th of the images, whichever is smaller.
    """
    train_set, _ = get_splits(p, run)
    low, high = check_range(low, high, len(train_set), "method_kwargs.low to method_kwargs.high")
    features = mined.load_features(p, "train", train_set)
    run.only_tried(f"{len(features):,} features of {features.shape[1]} dimensions are there to be looked at")
    spaces = split_by_network(features, get_backbone(p))
    points, choice, sheets = count_clusters(spaces, low, high, p.seed, say)
    curves = curves_of(points)
    plots.number_curves(Path(run.folder) / PICTURE, curves, choice.num_clusters, choice.low, choice.high)
    largest = {
        number: [(size, train_set.paths[image]) for size, image in found[:MOST_SHOWN]]
        for number, found in sheets.items()
    }
    in_use = {number: len(found) for number, found in sheets.items()}
    return {**choice._asdict(), "curves": curves, "sheets": largest, "in_use": in_use}


def curves_of(points: Sequence[Point]) -> dict[str, list[Any]]:
    """Return what was measured as lists, for records and pictures."""
    return {key: [round(getattr(point, key), 4) for point in points] for key in Point._fields}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_stage("number", train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
