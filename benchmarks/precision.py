"""Does bf16 cost accuracy? The same recipes in fp32 and in bf16, side by side, over several seeds.

    python -m benchmarks.precision                      # all stages on digits
    python -m benchmarks.precision --data DIR epochs=8  # the pretext task of the CIFAR-10 recipe for two CPU cores

Writes benchmarks/results/precision.json; what was measured before and not now stays there. `auto` is what recipes do:
on a CPU with fast bf16 training is in bf16, features, neighbors and scores in fp32; `bf16` computes these in it too.
Labels only score.
"""

import argparse
import itertools
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
    return {"seeds": list(seeds), "scores": found, "machine": common.machine()}


def on_images(data: Path, words: Sequence[str], seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """For each precision: loss of the last epoch, k-NN accuracy and purity of the training set's neighbors."""
    roots = [f"train_db_kwargs.root={data / 'train'}", f"val_db_kwargs.root={data / 'test'}"]
    found: dict[str, dict[str, list[float]]] = {name: {} for name in ON_IMAGES}
    for seed, precision in itertools.product(seeds, ON_IMAGES):
        own = [*roots, *words, f"seed={seed}", f"precision={precision}", f"root_dir={folder / f'{precision}-{seed}'}"]
        if simclr.main(["--config_exp", str(CONFIG), *own]):
            raise UserError(f"the pretext task in {precision} with seed {seed} failed")
        p = load_config(None, CONFIG, own)
        result = json.loads((Path(p.pretext_dir) / "run.json").read_text(encoding="utf-8"))["result"]
        last = json.loads((Path(p.pretext_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        scores = {"loss": last["loss"], "knn_acc": last["knn_acc"], "purity_20": result["purity_train"]["20"]}
        for name, value in scores.items():
            found[precision].setdefault(name, []).append(value)
        print(json.dumps({"seed": seed, "precision": precision, **scores}), flush=True)
    return {
        "epochs": p.epochs,
        "seeds": list(seeds),
        "scores": {one: {name: spread(values) for name, values in scores.items()} for one, scores in found.items()},
        "machine": common.machine(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the pretext task on images")
    parser.add_argument("--data", type=Path, metavar="DIR", help="holds train/<class> and test/<class>")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="N", help="default: 0 1 2")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "precision.json", metavar="FILE")
    args = parser.parse_intermixed_args(argv)
    if args.overrides and not args.data:
        parser.error("words such as epochs=8 belong to the pretext task on images, which needs --data DIR")
    result = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        if args.data:
            result["pretext"] = on_images(args.data, args.overrides, args.seeds, Path(scratch))
        else:
            result["digits"] = on_digits(args.seeds, Path(scratch))
    common.write_result(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
