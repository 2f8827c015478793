"""Does it help to say that classes are unequal? SCAN heads with priors, TEMI, and K-means, where sizes of classes fall.

    python -m benchmarks.prior --data DIR --cache DIR     # a few minutes
    python -m benchmarks.prior --summary                  # count again what is in the file

DIR of --data and --cache are those of benchmarks.judge. Writes benchmarks/results/prior.json; cases that are in it
already are not run again. The sizes of ten classes in random order fall by a constant factor, 10 or 50 to 1 from the
largest to the smallest; features are those of an embedded network. The priors: uniform, power:1, and the true shares,
which nobody knows in earnest; TEMI has its β for that. Labels draw the images and score;
nothing is chosen by them, and the head of the lowest loss counts.
"""

import sys
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch

from benchmarks import common
from benchmarks.judge_data import NETWORKS, load_features, load_images
from clustering.candidate import Embedding
from clustering.mining import mine_neighbors
from clustering.scores import score_clusters
from methods import kmeans_heads, scan_heads, temi
from system.runtime import generator, one_thread

COMMAND = "python -m benchmarks.prior --data DIR --cache DIR"
DATA = ("cifar10", "mnist")
FALLS = (10, 50)
DRAWS = 3
LARGEST = 400  # images of the largest class
NUM_CLASSES = 10
NUM_NEIGHBORS = 20
BETAS = (0.6, 1.0)  # the default, and what asks least for even clusters
SCORES = ("acc", "nmi", "balanced")


def draw_rows(name: str, fall: int, draw: int, targets: np.ndarray) -> np.ndarray:
    """Return the images of a case, drawn by its name, fall and number."""
    draws = generator("prior", name, fall, draw)
    rows: list[int] = []
    for rank, label in enumerate(torch.randperm(NUM_CLASSES, generator=draws).tolist()):
        own = np.flatnonzero(targets == label)
        size = round(LARGEST * fall ** (-rank / (NUM_CLASSES - 1)))
        rows += own[torch.randperm(len(own), generator=draws).numpy()[:size]].tolist()
    return np.array(sorted(rows))


def scored(clusters: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Return ACC, NMI, and the mean of the classes' own accuracies (balanced), in %."""
    scores = score_clusters(clusters, truth, NUM_CLASSES, NUM_CLASSES)
    right = {label: scores["confusion"][cluster, label] for cluster, label in scores["matching"]}
    balanced = np.mean([right[label] / count for label, count in enumerate(torch.bincount(truth).tolist())])
    return {
        key: round(100 * value, 2) for key, value in zip(SCORES, (scores["acc"], scores["nmi"], balanced), strict=True)
    }


def run_case(features: torch.Tensor, truth: torch.Tensor, seed: int) -> dict[str, dict[str, float]]:
    """Return the scores of K-means, of SCAN heads by prior, and of TEMI by its β."""
    shares = (torch.bincount(truth, minlength=NUM_CLASSES).double() / len(truth)).tolist()
    embedding = Embedding(features, torch.as_tensor(mine_neighbors(features, NUM_NEIGHBORS)))
    found = {"K-means": kmeans_heads.fit(embedding, NUM_CLASSES, seed)}
    for title, prior in (("uniform", "uniform"), ("power:1", "power:1"), ("true shares", shares)):
        found[f"SCAN, {title}"] = scan_heads.fit(embedding, NUM_CLASSES, seed, cluster_prior=prior)
    for beta in BETAS:
        found[f"TEMI, β = {beta:g}"] = temi.fit(embedding, NUM_CLASSES, seed, beta=beta)
    return {title: scored(one.clusters[one.best], truth) for title, one in found.items()}


def summarize(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and sample standard deviation of the scores of every method, by data set and fall."""
    rows = []
    for name, fall in product(DATA, FALLS):
        own = [case["scores"] for case in cases if (case["data"], case["fall"]) == (name, fall)]
        for title in own[0] if own else ():
            values = {key: [scores[title][key] for scores in own] for key in SCORES}
            spread = {
                key: {"mean": round(float(np.mean(one)), 2), "std": round(float(np.std(one, ddof=len(one) > 1)), 2)}
                for key, one in values.items()
            }
            rows.append({"data": name, "fall": fall, "method": title, "num_cases": len(own), **spread})
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = common.case_parser(__doc__, "prior.json")
    args = parser.parse_args(argv)
    result = common.read_cases(args.out)
    done = {(case["data"], case["fall"], case["draw"]) for case in result["cases"]}
    if not args.summary:
        if not (args.data and args.cache):
            parser.error("--data and --cache are needed")
        for draw, name, fall in product(range(DRAWS), DATA, FALLS):
            if (name, fall, draw) in done:
                continue
            targets = load_images(name, args.data)[1]
            rows = draw_rows(name, fall, draw, targets)
            features = torch.from_numpy(load_features(name, NETWORKS[0], args.data, args.cache)[rows])
            with one_thread():
                scores = run_case(features, torch.from_numpy(targets[rows].astype(np.int64)), draw)
            case = {"data": name, "fall": fall, "draw": draw, "network": NETWORKS[0], "num_images": len(rows)}
            result["cases"].append({**case, "scores": scores})
            common.write_result(args.out, {**result, "machine": common.machine(command=COMMAND)})
    result = {
        "summary": summarize(result["cases"]),
        "machine": common.machine(command=COMMAND),
        "cases": result["cases"],
    }
    common.write_result(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
