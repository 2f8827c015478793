"""A whole recipe on CIFAR-10 (or any labeled images) from a folder: what each stage takes, and what it reaches.

    python -m benchmarks.cifar10 --data DIR                     # DIR/train/<class>/*.jpg and DIR/test/<class>/*.jpg
    python -m benchmarks.cifar10 --data DIR seed=1 root_dir=scratch --out benchmarks/results/cifar10_seed1.json
    python -m benchmarks.cifar10 --data DIR simclr.epochs=10 scan.epochs=3 selflabel.epochs=6
    python -m benchmarks.cifar10 --data DIR --peak_tflops 989 --configs configs/pretext/simclr_cifar10.yml \
        configs/scan/scan_cifar10.yml configs/selflabel/selflabel_cifar10.yml

Without --configs it is the recipe for two CPU cores, or with a GPU the published one. An interrupted benchmark goes on
where it stopped; seconds count all of its parts. Labels only score.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import eval as evaluation
from benchmarks import common
from system.errors import UserError
from system.runtime import Runtime
from training.record import read_record
from utils import cli
from utils.common_config import get_model, get_train_dataset, get_train_transformations
from utils.config import load_config
from utils.overrides import words_of
from utils.stage import main_of

STAGES = {"pretext": "simclr", "scan": "scan", "selflabel": "selflabel"}
NAMES = ("pretext/simclr_cifar10", "scan/scan_cifar10", "selflabel/selflabel_cifar10")
SCORES = ("acc", "nmi", "ari")
NUM_PIXEL_QUERIES = 2000
# What a step computes of each image: views that are trained on, and views that are only looked at.
VIEWS = {"pretext": (2, 0), "scan": (2, 0), "selflabel": (1, 1)}


def gflop_of_a_view(p: Any) -> tuple[float, float]:
    """GFLOP of one image: forward, and forward and backward (a multiplication and an addition count as two)."""
    size = get_train_transformations(p).size
    model, image = get_model(p).train(), torch.zeros(2, 3, size, size)  # BatchNorm wants two
    counted = []
    for backward in (False, True):
        with FlopCounterMode(display=False) as counter:
            outputs = model(image)
            if backward:
                sum(output.sum() for output in (outputs if isinstance(outputs, list) else [outputs])).backward()
        counted.append(counter.get_total_flops() / 2 / 1e9)
    return counted[0], counted[1]


def work(p: Any, stage: str, num_images: int) -> dict[str, float]:
    """Views that a stage goes through, and the TFLOP of its steps."""
    shown = p.epochs * (num_images // p.batch_size) * p.batch_size
    trained, looked_at = VIEWS[stage]
    forward, both = gflop_of_a_view(p)
    return {"views": shown * (trained + looked_at), "tflop": shown * (trained * both + looked_at * forward) / 1e3}


def scores_of(words: Sequence[str]) -> dict[str, Any]:
    """What eval.py says."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.json"
        if evaluation.main([*words, "--json", str(path)]):
            raise UserError("eval.py failed")
        return json.loads(path.read_text(encoding="utf-8"))


def run_stage(stage: str, words: Sequence[str], peak_tflops: float | None, device: torch.device) -> dict[str, Any]:
    """Run what is left of a stage; returns its seconds, rates, memory and scores."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if main_of(STAGES[stage])(list(words)):
        raise UserError(f"the stage {stage} failed")
    p = load_config(None, words[1], words[2:])
    record = read_record(Path(p[f"{stage}_dir"]))
    split = "train+unlabeled" if stage == "pretext" else None
    done = work(p, stage, len(get_train_dataset(p, None, split)))
    seconds = record["seconds"]
    found = {
        "config": Path(words[1]).name,
        "epochs": p.epochs,
        "batch_size": p.batch_size,
        "precision": record["precision"],
        "seconds": seconds,
        "views_per_second": round(done["views"] / seconds, 1),
        "tflops": round(done["tflop"] / seconds, 4),
        "fraction_of_peak": round(done["tflop"] / seconds / peak_tflops, 4) if peak_tflops else None,
        "peak_memory_gb": common.peak_memory_gb(device),
    }
    if stage == "pretext":
        scores = scores_of([*words, "--kmeans"])
        purity = {split: record["result"].get(f"purity_{split}") for split in ("train", "val")}
        return found | {
            "purity": purity,
            "pixel_purity_20": pixel_purity(p),
            "kmeans": {name: scores["kmeans"][name] for name in SCORES},
        }
    scores = scores_of(words)
    return found | {name: scores[name] for name in SCORES}


def pixel_purity(p: Any) -> float | None:
    """Purity at 20 of the raw pixels' neighbors, over evenly spread training images: what the features must beat.

    None for images that are not in memory.
    """
    train = get_train_dataset(p, None)
    if train.images is None:
        return None
    share = len(train) // NUM_PIXEL_QUERIES or 1
    pixels = train.images.flatten(1).float()
    pixels = pixels - pixels.mean(0)
    queries = pixels[::share]
    similarity = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(pixels).T
    similarity[torch.arange(len(queries)), torch.arange(0, len(train), share)] = -2.0  # not the image itself
    neighbors = similarity.topk(20).indices
    return round((train.targets[neighbors] == train.targets[::share, None]).float().mean().item(), 4)


def default_configs(device: torch.device) -> list[Path]:
    """The recipe that this device can finish."""
    ending = "_cpu.yml" if device.type == "cpu" else ".yml"
    return [common.ROOT / "configs" / f"{name}{ending}" for name in NAMES]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = cli.base_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds train/<class> and test/<class>")
    parser.add_argument("--configs", nargs=3, type=Path, metavar="FILE", help="of the pretext task, scan, selflabel")
    parser.add_argument("--peak_tflops", type=float, metavar="X", help="the device's peak in the precision of training")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: benchmarks/results/cifar10_DEVICE.json")
    args = parser.parse_intermixed_args(argv)
    given = dict(word.split("=", 1) for word in args.overrides if "=" in word)
    device = Runtime.start(given.get("device", "auto"), given.get("precision", "auto")).device
    roots = [f"{split}_db_kwargs.root={args.data / name}" for split, name in (("train", "train"), ("val", "test"))]
    data = ["train_db_name=folder", "val_db_name=folder", "db_alias=cifar10_jpeg", *roots]
    configs = args.configs or default_configs(device)
    stages = {}
    for stage, config in zip(STAGES, configs, strict=True):
        words = ["--config_exp", str(config), *data, *words_of(stage, args.overrides)]
        stages[stage] = run_stage(stage, words, args.peak_tflops, device)
        print(json.dumps({stage: stages[stage]}, indent=1), flush=True)
    result = {
        "recipe": [Path(config).name for config in configs],
        "overrides": args.overrides,
        "seed": load_config(None, configs[0], [*data, *words_of("pretext", args.overrides)]).seed,
        "peak_tflops": args.peak_tflops,
        "stages": stages,
        "seconds": round(sum(stage["seconds"] for stage in stages.values()), 1),
        "machine": common.machine(device),
    }
    common.write_result(args.out or common.RESULTS / f"cifar10_{device.type}.json", result)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
