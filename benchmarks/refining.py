"""Does refining pay by the label-free score? Clusters of pretrained features before and after it.

    python -m benchmarks.refining --data DIR                         # minutes a case on two idle cores
    python -m benchmarks.refining --data DIR --only "cifar10 0"

DIR and the folders of images are those of benchmarks.folders. Every case is one call of `cluster.py --features
embedded`. Writes benchmarks/results/refining.json after each; cases that are in it are not run again. The rule looks at
`neighbors` and the sizes of clusters alone; ACC was added afterwards. No time is taken.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.folders import SIZES, make_folder
from training.folder import METRICS
from utils import cli

CASES = [(data, seed) for seed in range(3) for data in ("cifar10", "imagenette", "mnist", "digits")]
KEPT = ("epoch", "loss", "val_loss", "acc_from_labels")


def run_case(folder: Path, data: Path, name: str, seed: int) -> dict[str, Any]:
    """Cluster and refine a random folder; returns the scores of all candidates and of every epoch."""
    num_images = make_folder(folder / "images", data, name, seed)
    output = folder / "output"
    command = [sys.executable, str(common.ROOT / "cluster.py"), str(folder / "images"), "--output", str(output)]
    command += ["--num_clusters", str(SIZES[name][1]), "--features", "embedded"]
    subprocess.run([*command, f"seed={seed}"], check=True)
    verdict = json.loads((output / "cluster.json").read_text(encoding="utf-8"))["result"]["verdict"]
    lines = (output / "runs" / "selflabel" / METRICS).read_text(encoding="utf-8").splitlines()
    return {
        "data": name,
        "seed": seed,
        "num_images": num_images,
        "reason": verdict["reason"],
        "candidates": verdict["candidates"],
        "epochs": [{key: line[key] for key in KEPT if key in line} for line in map(json.loads, lines)],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing; returns the exit code."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the data sets' folder")
    parser.add_argument("--only", metavar="CASE", help='a data set and a seed, as in "cifar10 0"')
    parser.add_argument("--out", type=Path, default=common.RESULTS / "refining.json", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    cases = common.read_cases(args.out)["cases"]
    done = {(case["data"], case["seed"]) for case in cases}
    for name, seed in CASES:
        if (name, seed) in done or args.only not in (None, f"{name} {seed}"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            cases.append(run_case(Path(folder), args.data, name, seed))
        common.write_result(args.out, {"cases": cases})
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
