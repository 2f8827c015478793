"""How long does the search for the number of clusters take beyond the features? For 10,000 images on two cores.

    python -m benchmarks.number_speed --data DIR --cache DIR     # minutes, on a machine that does nothing else

DIR of --data and --cache are those of benchmarks.judge; the images are those of MNIST and CIFAR-10 together. Writes
benchmarks/results/number_speed.json: seconds of the map and of every number that is tried. At most five minutes are
asked for.
"""

import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks import common
from benchmarks.judge_data import NETWORKS, load_features
from clustering.number import check_range
from methods.number import count_clusters

COMMAND = "python -m benchmarks.number_speed --data DIR --cache DIR"
DATA = ("mnist", "cifar10")  # 5,000 images each
LIMIT = 300.0  # seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    args = common.case_parser(__doc__, "number_speed.json").parse_args(argv)
    rows = [load_features(name, NETWORKS[0], args.data, args.cache) for name in DATA]
    features = torch.from_numpy(np.concatenate(rows))
    low, high = check_range(2, None, len(features), "auto")
    marks: list[tuple[str, float]] = []
    _, choice, _ = count_clusters([features], low, high, say=lambda words: marks.append((words, time.perf_counter())))
    ends = [moment for _, moment in marks[1:]] + [time.perf_counter()]
    parts = {words: round(end - start, 2) for (words, start), end in zip(marks, ends, strict=True)}
    total = ends[-1] - marks[0][1]
    result = {
        "num_images": len(features),
        "seconds": round(total, 1),
        "within_limit": total <= LIMIT,
        "parts": parts,
        "sentence": choice.sentence,
        "machine": common.machine(command=COMMAND),
    }
    common.write_result(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
