"""Pretrained features or a network from scratch? `cluster.py --minutes 6` on folders, and what could have told.

    python -m benchmarks.rivals --data DIR                     # about six minutes a case on two idle cores
    python -m benchmarks.rivals --data DIR --only mnist

DIR is that of benchmarks.folders. A case is a random choice of classes and images of a data set. Both ways compete in
it, and the label-free scores of both are kept, of neighbors and of linear classifiers in both kinds of features, so
that rules can be compared afterwards: each data set's figures are those of the rule that did best on the others. Labels
only score. Writes benchmarks/results/rivals.json after each case; cases that are in it already are not run again.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common
from benchmarks.folders import write_folder
from benchmarks.judge_data import load_images
from clustering.agreement import adjusted_rand
from clustering.judge import generalisation_score, neighbor_agreement
from clustering.kmeans import fit_kmeans
from clustering.scores import score_clusters
from recipes.deliver import from_features, from_scratch, neighbors_of
from recipes.finalists import has_models
from recipes.project import Project
from recipes.record import RIVAL
from system.errors import UserError
from system.runtime import Runtime, generator
from utils import cli, mined
from utils.common_config import get_backbone, get_val_dataset

MINUTES = 6
DATA = ("cifar10", "imagenette", "mnist", "digits")
CASES = 4  # a data set
SIDES = ("pretrained", "scratch")


def draw_case(name: str, number: int, targets: np.ndarray) -> dict[str, Any]:
    """The classes and the rows of a case, drawn by its name and number; the first has all classes and 2,000 images."""
    draws = generator("rivals", name, number)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draws))

    num_classes = 10 if number == 0 else between(3, 10)
    each = 200 if number == 0 else between(30, 200)
    classes = sorted(torch.randperm(10, generator=draws)[:num_classes].tolist())
    rows = [np.flatnonzero(np.asarray(targets) == label) for label in classes]
    kept = [own[torch.randperm(len(own), generator=draws).numpy()][:each] for own in rows]
    return {"data": name, "number": number, "classes": classes, "rows": kept}


def run_case(case: dict[str, Any], images: Any, folder: Path) -> dict[str, Any]:
    """Run both ways on a folder of the case's images; returns what is known of both, and which was kept."""
    rows, classes = case.pop("rows"), case["classes"]
    write_folder(folder / "images", images, dict(zip(classes, rows, strict=True)))
    output, started = folder / "output", time.perf_counter()
    command = [sys.executable, str(common.ROOT / "cluster.py"), str(folder / "images"), "--output", str(output)]
    command += ["--num_clusters", str(len(classes)), "--features", "embedded", "--minutes", str(MINUTES)]
    subprocess.run([*command, f"seed={case['number']}"], check=True)
    seconds = time.perf_counter() - started
    result = json.loads((output / "cluster.json").read_text(encoding="utf-8"))["result"]
    return {
        **case,
        "num_images": sum(map(len, rows)),
        "seconds": round(seconds, 1),
        **compare(output),
        "handed_out": "scratch" if result["verdict"]["reason"].startswith("from scratch") else "pretrained",
        "acc": round(100 * result["scores"]["acc"], 2),
        "machine": common.machine(),
    }


def compare(output: Path) -> dict[str, Any]:
    """The label-free scores of what each way found, in its own features and in those of the other, and ACC in %."""
    projects = [read_project(output), read_project(output / RIVAL)]
    if not has_models(projects[1]):
        raise UserError("the network from scratch did not end in time; run this on an idle machine")
    runtime = Runtime.of(projects[0].load(projects[0].stages[0]))
    found = [
        way(project, get_val_dataset(project.load(project.stages[-1])), runtime)
        for way, project in zip((from_features, from_scratch), projects, strict=True)
    ]
    configs = [project.load(project.stages[0]) for project in projects]
    features = [mined.load_features(p, "train", one.dataset) for p, one in zip(configs, found, strict=True)]
    neighbors = [neighbors_of(one.project, one.dataset) for one in found]
    number, scores = projects[0].request["num_clusters"], {}
    for place, side in enumerate(SIDES):
        own, both = found[place].prediction.clusters.cpu(), (place, 1 - place)
        built = get_backbone(configs[place])
        dims = built["facts"].dims if "facts" in built else None
        simple = fit_kmeans(features[place], number, dims=dims).clusters
        scores[side] = {
            "neighbors": [neighbor_agreement(own, neighbors[i]) for i in both],
            "generalisation": [generalisation_score(features[i], own) for i in both],
            "kmeans": adjusted_rand(own, simple, number),
            "acc": round(100 * score_clusters(own, found[place].dataset.targets, number, number)["acc"], 2),
        }
    return scores


def read_project(folder: Path) -> Project:
    """A project as cluster.py left it in a folder."""
    record = json.loads((folder / "cluster.json").read_text(encoding="utf-8"))
    project = Project(folder, record["request"])
    project.facts |= {"stages": record["stages"]}
    return project


RULES: dict[str, Callable[[dict[str, Any]], float]] = {
    "neighbors in its own features": lambda scores: scores["neighbors"][0],
    "neighbors in the other's": lambda scores: scores["neighbors"][1],
    "neighbors in both": lambda scores: sum(scores["neighbors"]),
    "a classifier of its own features": lambda scores: scores["generalisation"][0],
    "classifiers of both": lambda scores: sum(scores["generalisation"]),
    "agreement with K-means": lambda scores: scores["kmeans"],
}
"""What could tell the better of the two, the larger the better."""


def chosen_by(rule: str, case: dict[str, Any]) -> str:
    """Which side a rule takes."""
    return max(SIDES, key=lambda side: RULES[rule](case[side]))


def regret(rule: str, cases: Sequence[dict[str, Any]]) -> float:
    """Points of ACC that the rule's choice lacks of the better one, in the mean of some cases."""
    lacks = [max(case[side]["acc"] for side in SIDES) - case[chosen_by(rule, case)]["acc"] for case in cases]
    return float(np.mean(lacks))


def summarize(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Every rule's regret, and by data set that of the rule that is best on the other data sets."""
    names = sorted({case["data"] for case in cases})
    rules = {rule: {"regret": round(regret(rule, cases), 2), "right": right(rule, cases)} for rule in RULES}
    held_out = []
    for name in names:
        others, own = ([case for case in cases if (case["data"] == name) is here] for here in (False, True))
        rule = min(RULES, key=lambda rule: regret(rule, others or own))
        held_out.append({"data": name, "rule": rule, "regret": round(regret(rule, own), 2), "cases": len(own)})
    return {"rules": rules, "held_out": held_out}


def right(rule: str, cases: Sequence[dict[str, Any]]) -> int:
    """In how many cases a rule takes the better side."""
    return sum(regret(rule, [case]) == 0 for case in cases)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing; returns the exit code."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the data sets' folder")
    parser.add_argument("--only", choices=DATA, help="one data set")
    parser.add_argument("--cases", type=int, default=CASES, help="of each data set")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "rivals.json")
    args = parser.parse_args(argv)
    cases = common.read_cases(args.out)["cases"]
    done = {(case["data"], case["number"]) for case in cases}
    for number in range(args.cases):
        for name in [args.only] if args.only else DATA:
            if (name, number) in done:
                continue
            images, targets = load_images(name, args.data)
            with tempfile.TemporaryDirectory() as folder:
                cases.append(run_case(draw_case(name, number, targets), images, Path(folder)))
            common.write_result(args.out, {"cases": cases, **summarize(cases)})
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
