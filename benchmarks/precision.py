"""Does bf16 cost accuracy? The same recipes in fp32 and in bf16, side by side.

    python -m benchmarks.precision                      # all stages on digits, three seeds
    python -m benchmarks.precision --data DIR epochs=5  # and the pretext task of the CIFAR-10 recipe for two CPU cores

Writes benchmarks/results/precision.json; what was measured before and not now stays there. `auto` is what recipes do:
on a CPU with fast bf16 training is in bf16, features, neighbors and scores in fp32; `bf16` computes these in it too.
Labels only score.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import demo
import simclr
from benchmarks import common
from benchmarks.digits import METRICS, spread
from utils.config import load_config
from utils.errors import UserError

PRECISIONS = ("fp32", "auto", "bf16")
ON_IMAGES = ("fp32", "bf16")  # in which training is the same as in auto
SEEDS = (0, 1, 2)
CONFIG = common.ROOT / "configs" / "pretext" / "simclr_cifar10_cpu.yml"


def on_digits(seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """For each precision and row of the demo: the scores of every seed, their mean and standard deviation."""
    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        scores = []
        for seed in seeds:
            words = [f"root_dir={folder / f'{precision}-{seed}'}", f"seed={seed}", f"precision={precision}"]
            scores.append(demo.run_recipe(words)[0])
        found[precision] = {
            row: {"title": title} | {name: spread([score[row][name] for score in scores]) for name in METRICS}
            for row, title in demo.ROWS.items()
        }
    return found


def on_images(data: Path, words: Sequence[str], folder: Path) -> dict[str, Any]:
    """For each precision the loss of the last epoch, k-NN accuracy, purity of the neighbors, and seconds."""
    found: dict[str, Any] = {}
    roots = [f"train_db_kwargs.root={data / 'train'}", f"val_db_kwargs.root={data / 'test'}"]
    for precision in ON_IMAGES:
        own = [*roots, *words, f"precision={precision}", f"root_dir={folder / precision}"]
        if simclr.main(["--config_exp", str(CONFIG), *own]):
            raise UserError(f"the pretext task in {precision} failed")
        p = load_config(None, CONFIG, own)
        record = json.loads((Path(p.pretext_dir) / "run.json").read_text(encoding="utf-8"))
        last = json.loads((Path(p.pretext_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        result = record["result"]
        found[precision] = {
            "epochs": p.epochs,
            "loss": last["loss"],
            "knn_acc": last["knn_acc"],
            "purity_20": {split: result[f"purity_{split}"]["20"] for split in ("train", "val")},
            "seconds": record["seconds"],
        }
        print(json.dumps({precision: found[precision]}), flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the pretext task on images")
    parser.add_argument("--data", type=Path, metavar="DIR", help="holds train/<class> and test/<class>")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="N", help="on digits; default: 0 1 2")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "precision.json", metavar="FILE")
    args = parser.parse_intermixed_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        result = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
        digits = on_digits(args.seeds, Path(scratch))
        result |= {"seeds": list(args.seeds), "digits": digits, "machine": common.machine()}
        if args.data:
            pretext = on_images(args.data, args.overrides, Path(scratch))
            result |= {"pretext": pretext, "pretext_machine": common.machine()}
    common.write_result(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
