"""The recipe of the demo over several seeds, and next to it SCAN without a pretext task.

    python -m benchmarks.digits
    python -m benchmarks.digits --seeds 0 1 --folder scratch --out two_seeds.json

Writes benchmarks/results/digits.json: every score on the 360 test images, its mean and sample standard deviation, and
the seconds of each stage. The row `scan-pixels` is SCAN from an untrained network with the neighbors of raw pixels: on
images this small it comes close, which says how easy they are. The recipe was chosen while looking at these labels.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import demo
import scan
from benchmarks import common
from clustering.mining import mine_neighbors
from clustering.neighbors import save_neighbors
from models.weights import save_weights
from system.errors import UserError
from system.runtime import seed_everything
from utils import cli
from utils.common_config import get_model, get_train_dataset, get_val_dataset
from utils.config import load_config

SEEDS = (0, 1, 2, 3, 4)
METRICS = ("acc", "nmi", "ari")
PIXELS_ROW = "scan-pixels"
PIXELS_RUN = ("run_name=pixels", "pretext_run=pixels")
ROWS = demo.ROWS | {PIXELS_ROW: "SCAN, untrained network, neighbors of raw pixels"}


def scan_of_pixels(overrides: Sequence[str]) -> dict[str, float]:
    """Lay an untrained network and the neighbors of raw pixels down as a pretext run, train SCAN on it, score it."""
    p = load_config(None, demo.CONFIGS["pretext"], [*overrides, "run_name=pixels"])
    train = get_train_dataset(p, None)
    Path(p.pretext_dir).mkdir(parents=True, exist_ok=True)
    seed_everything(p.seed, "untrained")
    save_weights(p.pretext_model, get_model(p).state_dict(), setup=p.setup)
    for split, dataset, num in (("train", train, p.num_mined_train), ("val", get_val_dataset(p), p.num_mined_val)):
        found = mine_neighbors(dataset.images.flatten(1).float(), num, p.neighbors)
        save_neighbors(p[f"topk_neighbors_{split}_path"], found, dataset.fingerprint())
    words = [*overrides, *PIXELS_RUN]
    if scan.main(["--config_exp", str(demo.CONFIGS["scan"]), *words]):
        raise UserError("SCAN on the neighbors of raw pixels failed")
    scores = demo.evaluate_stage("scan", words)
    return {name: demo.number(scores[name]) for name in METRICS}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Values with their mean and sample standard deviation (0 for a single one)."""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.fmean(values), 6), "std": round(std, 6), "values": list(values)}


def run_seeds(seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """Run the recipe and the row of raw pixels for each seed, each in a folder of its own; returns what is written."""
    scores, seconds = [], []
    for seed in seeds:
        overrides = [f"root_dir={folder / f'seed-{seed}'}", f"seed={seed}"]
        found, taken = demo.run_recipe(overrides)
        scores.append(found | {PIXELS_ROW: scan_of_pixels(overrides)})
        seconds.append(taken)
        print(f"seed {seed}: " + "  ".join(f"{row} {100 * scores[-1][row]['acc']:.1f} %" for row in ROWS), flush=True)
    return {
        "num_test_images": 360,
        "seeds": list(seeds),
        "rows": {
            row: {"title": title} | {name: spread([found[row][name] for found in scores]) for name in METRICS}
            for row, title in ROWS.items()
        },
        "seconds": {stage: spread([taken[stage] for taken in seconds]) for stage in seconds[0]},
        "machine": common.machine(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="N", help="default: 0 1 2 3 4")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep the runs here (default: a temporary folder)")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "digits.json", metavar="FILE")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        result = run_seeds(args.seeds, args.folder or Path(scratch))
    common.write_result(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
