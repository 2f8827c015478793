"""What only a GPU can show: does it compute what the CPU computes, where does a step's time go, how far does it reach?

    python -m benchmarks.gpu smoke                                # what depends on the device, against the CPU
    python -m benchmarks.gpu profile --peak_tflops 790            # each stage's step, eager and compiled
    python -m benchmarks.gpu project --minutes 12                 # of the profile: seconds of the recipes
    python -m benchmarks.gpu scale                                # inference, mining, evaluation at ImageNet's size

Results go to benchmarks/results/gpu-NAME.json. Sizes are arguments, so that all of it can be rehearsed on a CPU:

    python -m benchmarks.gpu profile --device cpu --steps 1 --words batch_size=16 width=8 --out scratch.json
    python -m benchmarks.gpu scale --num_images 2000 --dim 64 --num_clusters 20 --crop 32 --out scratch.json

Views and images are made up; no figure here says anything about accuracy.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import common, gpu_profile
from benchmarks.steps import CONFIGS, make_images
from clustering.features import Embedder
from clustering.mining import mine_neighbors
from clustering.scores import score
from clustering.validation import VALIDATION_COLUMNS, validation_loss
from data.augment import Evaluation, Normalize
from models import build_backbone
from system.runtime import Runtime
from tests.gpu.checks import CHECKS

NORMALIZE = Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def smoke(args: argparse.Namespace, runtime: Runtime) -> dict[str, Any]:
    """Run the checks; a failed one does not keep the others from running."""
    found: dict[str, Any] = {}
    for name, check in CHECKS.items():
        if args.only and name not in args.only:
            continue
        started = time.perf_counter()
        try:
            found[name] = {"passed": True, **check(runtime)}
        except Exception as error:  # whatever it is, it is the finding
            traceback.print_exc()
            found[name] = {"passed": False, "error": f"{type(error).__name__}: {error}"[:500]}
        found[name]["seconds"] = round(time.perf_counter() - started, 1)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    failed = [name for name, result in found.items() if not result["passed"]]
    print(f"failed: {', '.join(failed)}" if failed else f"{len(found)} checks passed")
    return {"passed": not failed, "checks": found}


def profile(args: argparse.Namespace, runtime: Runtime) -> dict[str, Any]:
    """Profile every stage's step, eager and compiled."""
    stages: dict[str, Any] = {}
    for stage in args.only or CONFIGS:
        stages[stage] = {}
        for name, compiles in (("eager", False), ("compiled", True)):
            if compiles and runtime.device.type == "cpu":  # where networks are not compiled
                continue
            variant = Runtime(runtime.device, runtime.training, runtime.inference, compiles, compiles)
            found = gpu_profile.profile_stage(stage, variant, args.steps, args.words, args.peak_tflops)
            stages[stage][name] = found
            shown = {key: value for key, value in found.items() if key != "trace"}
            idle = {key: found["trace"].get(key) for key in ("idle_share", "launches_per_step", "waits_per_step")}
            print(f"{stage} {name}: {json.dumps(shown | idle)}", flush=True)
    return {"precision": str(runtime.training), "peak_tflops": args.peak_tflops, "words": args.words, "stages": stages}


def project(args: argparse.Namespace, runtime: Runtime) -> dict[str, Any]:
    """Say what the recipes will take by a profile; start-up, compiling and evaluation come on top."""
    stages = json.loads(args.profile.read_text(encoding="utf-8"))["stages"]
    found = [gpu_profile.project(stages, args.minutes, suffix) for suffix in ("_fast", "_jpeg")]
    for recipe in found:
        print(json.dumps(recipe))
    return {"recipes": found}


Job = tuple[str, Callable[[], Any], int, dict[str, Any]]  # what, how, how many items, the sizes


def _inference(args: argparse.Namespace, runtime: Runtime) -> Iterator[Job]:
    backbone = runtime.place(build_backbone("resnet50", "imagenet")["backbone"])
    dataset, strategy = make_images(args.num_inferred, args.crop), Evaluation(args.crop, NORMALIZE)
    for dtype in dict.fromkeys((runtime.inference, runtime.training)):
        call = partial(Embedder(strategy, runtime, args.batch_size).embed, backbone, dataset, dtype=dtype)
        name = f"inference {str(dtype).removeprefix('torch.')}"
        yield name, call, args.num_inferred, {"images": args.num_inferred, "crop": args.crop}


def _mining(args: argparse.Namespace, runtime: Runtime) -> Iterator[Job]:
    random = torch.Generator(runtime.device).manual_seed(0)
    features = torch.randn(args.num_images, args.dim, device=runtime.device, generator=random)
    rows = range(min(args.rows or args.num_images, args.num_images))
    call = partial(mine_neighbors, features, 50, "torch", int((args.budget_gb or 0) * 2**30), rows)
    yield "mining", call, len(rows), {"images": args.num_images, "dim": args.dim, "rows": len(rows)}


def _evaluation(args: argparse.Namespace, runtime: Runtime) -> Iterator[Job]:
    device, num, num_clusters = runtime.device, args.num_images, args.num_clusters
    random = torch.Generator(device).manual_seed(0)
    probabilities = torch.randn(num, num_clusters, device=device, generator=random).softmax(1)
    targets = torch.randint(num_clusters, (num,), device=device, generator=random)
    neighbors = torch.randint(num, (num, VALIDATION_COLUMNS), device=device, generator=random)
    sizes = {"images": num, "clusters": num_clusters}
    yield "scores", partial(score, probabilities, targets, num_clusters), num, sizes
    yield "validation loss", partial(validation_loss, probabilities, neighbors), num, sizes


PARTS: dict[str, Callable[[argparse.Namespace, Runtime], Iterator[Job]]] = {
    "inference": _inference,
    "mining": _mining,
    "evaluation": _evaluation,
}


def scale(args: argparse.Namespace, runtime: Runtime) -> dict[str, Any]:
    """Measure seconds and peak memory of inference, mining and evaluation at the size of ImageNet."""
    found = {}
    for part in args.only or PARTS:
        for name, call, num, sizes in PARTS[part](args, runtime):
            if runtime.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(runtime.device)
            seconds = common.time_calls(call, 1, runtime.device, warm_up=0)[0]
            memory = common.peak_memory_gb(runtime.device)
            rates = {"seconds": round(seconds, 3), "per_second": round(num / seconds, 1), "peak_memory_gb": memory}
            found[name] = sizes | rates
            print(f"{name}: {json.dumps(found[name])}", flush=True)
    return {"budget_gb": args.budget_gb, "measured": found}


COMMANDS: dict[str, Callable[[argparse.Namespace, Runtime], dict[str, Any]]] = {
    "smoke": smoke,
    "profile": profile,
    "project": project,
    "scale": scale,
}


PARTS_OF: dict[str, Collection[str]] = {"smoke": CHECKS, "profile": CONFIGS, "scale": PARTS}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    made = {}
    for name, function in COMMANDS.items():
        made[name] = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        made[name].add_argument("--device", default="auto")
        made[name].add_argument("--precision", default="auto")
        if parts := PARTS_OF.get(name):
            made[name].add_argument("--only", nargs="+", choices=parts, metavar="NAME", help=f"of {', '.join(parts)}")
        made[name].add_argument("--out", type=Path, metavar="FILE", help=f"default: benchmarks/results/gpu-{name}.json")
    made["profile"].add_argument("--steps", type=int, default=64, help="steps that are timed, three times over")
    made["profile"].add_argument("--peak_tflops", type=float, default=790.0, help="of the GPU in bf16, measured")
    made["profile"].add_argument("--words", nargs="*", default=[], metavar="key=value", help="changes to the configs")
    made["project"].add_argument("--minutes", type=float, default=12.0)
    made["project"].add_argument("--profile", type=Path, default=common.RESULTS / "gpu-profile.json", metavar="FILE")
    made["scale"].add_argument("--num_inferred", type=int, default=20_000, help="images for the network")
    made["scale"].add_argument("--num_images", type=int, default=1_281_167, help="rows for mining and evaluation")
    made["scale"].add_argument("--rows", type=int, help="mine these many rows only, against all")
    made["scale"].add_argument("--dim", type=int, default=2048)
    made["scale"].add_argument("--num_clusters", type=int, default=1000)
    made["scale"].add_argument("--crop", type=int, default=224)
    made["scale"].add_argument("--batch_size", type=int, default=512)
    made["scale"].add_argument("--budget_gb", type=float, help="mining's working memory (default: its own)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands; returns 1 when a check failed."""
    args = make_parser().parse_args(argv)
    runtime = Runtime.start(args.device, args.precision, False)
    result = {"machine": common.machine(runtime.device), **COMMANDS[args.command](args, runtime)}
    common.write_result(args.out or common.RESULTS / f"gpu-{args.command}.json", result)
    return 0 if result.get("passed", True) else 1


if __name__ == "__main__":
    sys.exit(main())
