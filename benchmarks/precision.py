"""Does bf16 cost accuracy? The same recipes in fp32 and in bf16, side by side, over several seeds.

    python -m benchmarks.precision                      # all stages on digits
    python -m benchmarks.precision --data DIR epochs=8  # the pretext task of the CIFAR-10 recipe for two CPU cores
    python -m benchmarks.precision --data DIR epochs=8 --seeds 3 4  # more seeds of it

Writes benchmarks/results/precision.json, where what was measured before stays, but for pretext runs with other words:
they make way. `auto` is what recipes do: on a CPU with fast bf16 training is in bf16, features, neighbors and scores in
fp32; `bf16` computes these in it too. Beside the scores, which differ from run to run for many reasons, it shows what
bf16 does to the gradients of a network that was trained so: how large its errors are next to the differences between
batches, and whether they average out. Labels only score.
"""

import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from easydict import EasyDict
from torch import Tensor

import demo
import simclr
from benchmarks import common
from benchmarks.digits import METRICS, spread
from data.loaders import ViewLoader
from system.errors import UserError
from system.runtime import Runtime
from training.record import git_commit
from utils import cli
from utils.common_config import get_criterion, get_model, get_train_dataset, get_train_transformations
from utils.config import load_config

PRECISIONS = ("fp32", "auto", "bf16")
ON_IMAGES = ("fp32", "bf16")  # in which training is the same as in auto
SEEDS = (0, 1, 2)
NUM_BATCHES = 24
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


def on_images(data: Path, words: Sequence[str], seed: int, precision: str, folder: Path) -> dict[str, Any]:
    """Do the pretext task; returns what is recorded of it."""
    roots = [f"train_db_kwargs.root={data / 'train'}", f"val_db_kwargs.root={data / 'test'}"]
    own = [*roots, *words, f"seed={seed}", f"precision={precision}", f"root_dir={folder / f'{precision}-{seed}'}"]
    if simclr.main(["--config_exp", str(CONFIG), *own]):
        raise UserError(f"the pretext task in {precision} with seed {seed} failed")
    p = load_config(None, CONFIG, own)
    result = json.loads((Path(p.pretext_dir) / "run.json").read_text(encoding="utf-8"))["result"]
    last = json.loads((Path(p.pretext_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    run = {
        "words": list(words),
        "seed": seed,
        "precision": precision,
        "epochs": p.epochs,
        "loss": last["loss"],
        "knn_acc": last["knn_acc"],
        "purity_20": result["purity_train"]["20"],
        "commit": git_commit(),
    }
    return run | {"gradients": compare_gradients(p)} if precision == "bf16" else run


def compare_gradients(p: EasyDict) -> dict[str, float]:
    """What bf16 changes of a trained model's gradients, each as a share of the mean gradient over some batches.

    `error` is that of a batch, `batches` how far the batches' own gradients are from their mean; `bias` is what is left
    of the errors in their mean, `bias_by_chance` what would be left of as many independent errors without bias.
    """
    runtime = Runtime.start(p.device, "fp32", False)
    train, augment, criterion = get_train_dataset(p, None), get_train_transformations(p), get_criterion(p)
    model = runtime.place(get_model(p, p.pretext_model)).train()
    loader = ViewLoader(train, [augment, augment], p.batch_size, runtime, (p.seed, "gradients"))
    found: dict[torch.dtype, list[Tensor]] = {torch.float32: [], torch.bfloat16: []}
    for batch in itertools.islice(loader.epoch(0), NUM_BATCHES):
        for dtype, gradients in found.items():
            features = runtime.forward(model, torch.cat(batch.views), dtype).unflatten(0, (2, -1)).transpose(0, 1)
            parts = torch.autograd.grad(criterion(features), list(model.parameters()))
            gradients.append(torch.cat([part.flatten() for part in parts]))
    exact = torch.stack(found[torch.float32])
    errors = torch.stack(found[torch.bfloat16]) - exact
    length = exact.mean(0).norm()
    return {
        "num_batches": len(exact),
        "error": float(errors.norm(dim=1).mean() / length),
        "batches": float((exact - exact.mean(0)).norm(dim=1).mean() / length),
        "bias": float(errors.mean(0).norm() / length),
        "bias_by_chance": float((errors - errors.mean(0)).norm(dim=1).mean() / len(exact) ** 0.5 / length),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = cli.Parser(__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the pretext task on images")
    parser.add_argument("--data", type=Path, metavar="DIR", help="holds train/<class> and test/<class>")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="N", help="default: 0 1 2")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "precision.json", metavar="FILE")
    args = parser.parse_intermixed_args(argv)
    if args.overrides and not args.data:
        parser.error("words such as epochs=8 belong to the pretext task on images, which needs --data DIR")
    result = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        if not args.data:
            result["digits"] = on_digits(args.seeds, Path(scratch))
            common.write_result(args.out, result)
            return 0
        for seed, precision in itertools.product(args.seeds, ON_IMAGES):
            run = on_images(args.data, args.overrides, seed, precision, Path(scratch))
            print(json.dumps(run), flush=True)
            alike = [one for one in result.get("pretext", {}).get("runs", []) if one["words"] == run["words"]]
            others = [one for one in alike if (one["seed"], one["precision"]) != (seed, precision)]
            result["pretext"] = {"runs": [*others, run], "machine": common.machine()}
            common.write_result(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
