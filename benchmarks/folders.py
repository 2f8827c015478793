"""What people get: `cluster.py` on folders of images, from the folder to the report, seconds next to accuracy.

    python -m benchmarks.folders --data DIR                          # about 60 minutes on two idle cores
    python -m benchmarks.folders --data DIR --only "cifar10 embedded"

DIR holds cifar10/{train,test}/CLASS, imagenette/val/CLASS and mnist/ (idx.gz); digits come with scikit-learn. Every row
is three calls, each on its own random images with its own seed, in a new process; that of 50,000 images is one call.
Writes benchmarks/results/folders.json after each call; calls that are in it already are not run again. Labels only
score. Seconds count everything: starting Python, reading files, features, clustering, refining, the report.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import common
from benchmarks.judge_data import load_images
from system.runtime import generator
from utils import cli

SEEDS = (0, 1, 2)
# Images a class at most, and classes: 2,000 images, of Imagenette 1,500, of digits all 1,797.
SIZES = {"cifar10": (200, 10), "imagenette": (300, 5), "digits": (200, 10), "mnist": (200, 10)}
MANY = "cifar10 train"  # all 50,000 images, in one call
SIZES[MANY] = (5000, 10)
WAYS = {
    "embedded": ["--features", "embedded"],
    "embedded, quick": ["--features", "embedded", "--quick"],
    "scratch": ["--features", "scratch"],
}
ROWS = [
    *((data, "embedded") for data in SIZES),
    *((data, "embedded, quick") for data in SIZES if data != MANY),
    *((data, "scratch") for data in ("digits", "mnist")),  # what auto takes for small gray images
]


def make_folder(folder: Path, data: Path, name: str, seed: int) -> int:
    """Write a random subset of a data set as image files, one directory a class; returns their number."""
    each, num_classes = SIZES[name]
    images, targets = load_images(name, data)
    chosen = {}
    for label in range(num_classes):
        rows = np.flatnonzero(np.asarray(targets) == label)
        order = generator("folders", name, seed, label)
        chosen[label] = rows[np.random.default_rng(order.initial_seed()).permutation(len(rows))][:each]
    write_folder(folder, images, chosen)
    return sum(map(len, chosen.values()))


def write_folder(folder: Path, images: Any, chosen: Mapping[int, np.ndarray]) -> None:
    """Write the chosen rows of each class as image files, one directory a class."""
    for label, rows in chosen.items():
        own = folder / f"class{label}"
        own.mkdir(parents=True)
        for row in rows:
            if isinstance(images, np.ndarray):
                Image.fromarray(images[row]).save(own / f"{row:05}.png")
            else:
                (own / images[row].name).symlink_to(images[row].resolve())


def run_case(folder: Path, data: Path, name: str, way: str, seed: int) -> dict[str, Any]:
    """Call cluster.py in a new process; returns what it took and what it found."""
    num_images = make_folder(folder / "images", data, name, seed)
    output = folder / "output"
    command = [sys.executable, str(common.ROOT / "cluster.py"), str(folder / "images"), "--output", str(output)]
    command += ["--num_clusters", str(SIZES[name][1]), *WAYS[way], f"seed={seed}"]
    started = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - started
    result = json.loads((output / "cluster.json").read_text(encoding="utf-8"))["result"]
    candidates = result["verdict"]["candidates"]
    return {
        "data": name,
        "way": way,
        "seed": seed,
        "num_images": num_images,
        "seconds": round(seconds, 1),
        "acc_from_labels": result["scores"]["acc"],
        "reason": result["verdict"]["reason"],
        "trust": result["verdict"]["trust"],
        "candidates": {row["name"]: row.get("acc_from_labels") for row in candidates},
        "refined": refined(candidates, result["verdict"]["reason"]),
        "machine": common.machine(),
    }


def refined(candidates: Sequence[dict[str, Any]], reason: str) -> dict[str, Any] | None:
    """What refining made of the clustering that it began with, and whether it was kept; None without any."""
    after = next((row for row in candidates if "refines" in row), None)
    if after is None:
        return None
    before = next(row for row in candidates if row["name"] == after["refines"])
    kept = ("neighbors", "acc_from_labels")
    pair = {when: {key: row[key] for key in kept} for when, row in (("before", before), ("after", after))}
    return {**pair, "handed_out": reason.startswith("self-labeling")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing; returns the exit code."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the data sets' folder")
    parser.add_argument("--only", metavar="ROW", help='a row, as in "cifar10 embedded"')
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--out", type=Path, default=common.RESULTS / "folders.json")
    args = parser.parse_args(argv)
    cases = common.read_cases(args.out)["cases"]
    done = {(case["data"], case["way"], case["seed"]) for case in cases}
    for name, way in ROWS:
        if args.only and f"{name} {way}" != args.only:
            continue
        for seed in args.seeds[:1] if name == MANY else args.seeds:
            if (name, way, seed) in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                cases.append(run_case(Path(folder), args.data, name, way, seed))
            common.write_result(args.out, {"cases": cases})
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
