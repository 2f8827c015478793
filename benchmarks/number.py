"""How many clusters does `methods.number` find, and is it sure where it is right? On subsets of four data sets.

    python -m benchmarks.number --data DIR --cache DIR                # about a minute a case on one core
    python -m benchmarks.number --data DIR --cache DIR --scratch RUN --scratch_cifar10 RUN   # as well from scratch
    python -m benchmarks.number --summary                             # apply the rules again to what is in the file

DIR of --data and --cache are those of benchmarks.judge, and a RUN the pretext folder of digits or of CIFAR-10. Writes
benchmarks/results/number.json; cases that are in it already are not run again. Case 0 of a data set is all its classes
(at most 5,000 images), with each of two networks, both, and, where there is a RUN, SimCLR's; the others are random
choices of 3 to 10 classes, of equal sizes (even numbers) or falling to a fifth (odd).

Labels only score. The kind of rule (the best silhouette on a map with a tenth of the agreement, sure by its lead over
all numbers that are far from it) was found while looking at the labels of 29 other random subsets of these data sets,
and of the cases up to SEEN. What is left to choose, the lead from which on the answer is sure, each data set has from
the other data sets. The cases after SEEN were drawn when all of it was fixed: the shipped rule had not seen them.
"""

import json
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common
from benchmarks.judge_data import NETWORKS, SIDES, from_scratch, load_features, load_images
from clustering.number import SURE, Choice, Point, check_range, choose, search
from clustering.scores import score_clusters
from methods.independent import cluster, measure, prepare
from system.runtime import generator, one_thread

COMMAND = "python -m benchmarks.number --data DIR --cache DIR --scratch RUN --scratch_cifar10 RUN"
SUBSETS = 25  # a data set
SEEN = 20  # the rule was made with the results of the subsets up to this one in sight
FALL = 5  # the largest class of an unequal case has so many times the images of the smallest
GOOD = 80  # ACC in % at the true number from which on a case counts as one whose clusters can be found
SURE_AND_RIGHT, SURE_WHERE_GOOD = 0.8, 0.5  # what is required
MARGIN = 0.85  # within 1 where sure, in the cases that a lead is chosen by: some is lost on others
LEADS = [round(float(value), 3) for value in np.arange(0, 0.4, 0.005)]


def draw_case(name: str, number: int, targets: np.ndarray) -> dict[str, Any]:
    """Return what a case consists of: classes, sizes and images, drawn by its name and number."""
    draws = generator("number of clusters", name, number)
    if number == 0:
        return {"data": name, "number": 0, "num_classes": 10, "unequal": False, "rows": np.arange(len(targets))}
    num_classes = int(torch.randint(3, 11, (), generator=draws))
    classes = torch.randperm(10, generator=draws)[:num_classes].tolist()
    largest = int(torch.randint(100, 171, (), generator=draws))
    unequal = number % 2 == 1
    rows: list[int] = []
    for rank, label in enumerate(classes):
        own = np.flatnonzero(targets == label)
        size = round(largest * FALL ** (-rank / (num_classes - 1))) if unequal else largest
        rows += own[torch.randperm(len(own), generator=draws).numpy()[:size]].tolist()
    return {
        "data": name,
        "number": number,
        "num_classes": num_classes,
        "unequal": unequal,
        "rows": np.array(sorted(rows)),
    }


def run_case(case: dict[str, Any], spaces: Sequence[np.ndarray], targets: np.ndarray) -> dict[str, Any]:
    """Return a case's settings with its points, and the accuracy in % at the true number."""
    rows, seed = case.pop("rows"), case["number"]
    features = [torch.from_numpy(space[rows]) for space in spaces]
    low, high = check_range(2, None, len(rows), "auto")
    started = time.perf_counter()
    with one_thread():
        prepared = prepare(features, high + 1, seed)
        points = search(lambda number: measure(prepared, number, cluster(prepared, number, seed)), low, high + 1)
        seconds = time.perf_counter() - started
        clusterings = cluster(prepared, case["num_classes"], seed)
    truth = torch.from_numpy(targets[rows][prepared.rows.numpy()].astype(np.int64))
    accs = [100 * score_clusters(one, truth, case["num_classes"], 10)["acc"] for one in clusterings]
    found = [[point.num_clusters, *(round(value, 4) for value in point[1:])] for point in points]
    return {
        **case,
        "num_images": len(rows),
        "acc": [round(acc, 1) for acc in accs],
        "points": found,
        "seconds": round(seconds, 1),
    }


def found_by(case: dict[str, Any], sure_from: float) -> Choice:
    """Return what is chosen of a case, sure from a lead on, from the points that a search asks for."""
    points = {row[0]: Point(*row) for row in case["points"]}
    high = check_range(2, None, case["num_images"], "auto")[1]
    return choose(search(points.__getitem__, 2, high + 1), 2, high, sure_from)


def figures(cases: Sequence[dict[str, Any]], sure_from: Sequence[float]) -> dict[str, Any]:
    """Return how many cases there are, and how many are within 1, in the range, sure, and sure and within 1."""
    found = [found_by(case, least) for case, least in zip(cases, sure_from, strict=True)]
    right = [abs(one.num_clusters - case["num_classes"]) <= 1 for one, case in zip(found, cases, strict=True)]
    good = [max(case["acc"]) >= GOOD for case in cases]
    sure = [one.sure for one in found]
    return {
        "num_cases": len(cases),
        "within_1": sum(right),
        "exact": sum(one.num_clusters == case["num_classes"] for one, case in zip(found, cases, strict=True)),
        "in_range": sum(one.low <= case["num_classes"] <= one.high for one, case in zip(found, cases, strict=True)),
        "sure": sum(sure),
        "sure_and_within_1": sum(map(min, sure, right)),
        "good": sum(good),
        "sure_where_good": sum(map(min, sure, good)),
    }


def meets(found: dict[str, Any]) -> bool:
    """Whether figures are what is required; of no case that is sure nothing is known."""
    return (
        found["sure"] > 0
        and found["sure_and_within_1"] >= SURE_AND_RIGHT * found["sure"]
        and found["sure_where_good"] >= SURE_WHERE_GOOD * found["good"]
    )


def best_lead(cases: Sequence[dict[str, Any]]) -> float:
    """Return the lead from which on most cases are sure and within 1, and MARGIN of those that are sure."""

    def key(sure_from: float) -> tuple[bool, int]:
        found = figures(cases, [sure_from] * len(cases))
        return found["sure_and_within_1"] >= MARGIN * found["sure"], found["sure_and_within_1"]

    return max(LEADS, key=key)


def summarize(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return each data set's figures by a rule fixed without it, all together, and every case by that rule."""
    names = [name for name in SIDES if any(case["data"] == name for case in cases)]
    fixed = {name: best_lead([case for case in cases if case["data"] != name] or cases) for name in names}
    held_out, table = {}, []
    for name in names:
        own = [case for case in cases if case["data"] == name]
        held_out[name] = {"sure_from": fixed[name], **figures(own, [fixed[name]] * len(own))}
        for case in own:
            found = found_by(case, fixed[name])
            told = {"found": found.num_clusters, "low": found.low, "high": found.high, "sure": found.sure}
            kept = ("data", "number", "networks", "num_classes", "unequal", "num_images")
            table.append({**{key: case[key] for key in kept}, "acc": max(case["acc"]), **told})
    together = figures(cases, [fixed[case["data"]] for case in cases])
    shipped = figures(cases, [SURE] * len(cases))
    unseen = [case for case in cases if case["number"] > SEEN]
    fresh = figures(unseen, [SURE] * len(unseen))
    return {
        "held_out": held_out,
        "together": {**together, "meets": meets(together)},
        "shipped_rule": {"sure_from": SURE, **shipped, "meets": meets(shipped)},
        "unseen": {**fresh, "meets": meets(fresh)},
        "cases": table,
    }


def networks_of(name: str, number: int, has_scratch: bool) -> list[Sequence[str]]:
    """Return the feature spaces that a case is run with; those of SimCLR on the data set itself for all its classes."""
    if number:
        return [NETWORKS[number // 2 % 2 :][:1]]
    return [NETWORKS[:1], NETWORKS[1:], NETWORKS, *([(scratch(name),)] if has_scratch else [])]


def scratch(name: str) -> str:
    """What the features of a network from scratch are called."""
    return f"simclr on {name}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = common.case_parser(__doc__, "number.json")
    parser.add_argument("--scratch", type=Path, metavar="RUN", help="the pretext folder of digits")
    parser.add_argument("--scratch_cifar10", type=Path, metavar="RUN", help="that of CIFAR-10 (JPEG copy)")
    args = parser.parse_args(argv)
    runs = {"digits": args.scratch, "cifar10": args.scratch_cifar10}
    result = common.read_cases(args.out)
    done = {(case["data"], case["number"], *case["networks"]) for case in result["cases"]}
    if not args.summary:
        if not (args.data and args.cache):
            parser.error("--data and --cache are needed")
        # All data sets early, and the large cases last, so that a run cut short is still of use.
        for number, name in product([*range(1, SUBSETS + 1), 0], SIDES):
            targets = load_images(name, args.data)[1]
            for networks in networks_of(name, number, bool(runs.get(name))):
                if (name, number, *networks) not in done:
                    case = {**draw_case(name, number, targets), "networks": list(networks)}
                    spaces = [
                        from_scratch(name, runs[name])
                        if network == scratch(name)
                        else load_features(name, network, args.data, args.cache)
                        for network in networks
                    ]
                    result["cases"].append(run_case(case, spaces, targets))
                    common.write_result(args.out, {**result, "machine": common.machine(command=COMMAND)})
    result = {
        "summary": summarize(result["cases"]),
        "machine": common.machine(command=COMMAND),
        "cases": result["cases"],
    }
    common.write_result(args.out, result)
    print(json.dumps({key: value for key, value in result["summary"].items() if key != "cases"}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
