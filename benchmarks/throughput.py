"""How fast is it? The published way against ours, in one run, on the same data, a pair of measurements at a time.

    python -m benchmarks.throughput                     # everything, under ten minutes on two cores
    python -m benchmarks.throughput --only mining       # one of: augmentation, steps, mining, evaluation, features
    python -m benchmarks.throughput --json benchmarks/results/throughput.json

Published: PIL transforms in a DataLoader with workers, fp32, contiguous tensors, a flat faiss index, a pass per pair of
cluster and class, an N x N validation loss (benchmarks/published.py); for features of a pretrained network, onnxruntime
as it comes (benchmarks/features.py has more of them). Ours: what the stages do, with `auto` settings as in a long run.
Ratios are of neighboring measurements; their median and range are given. Labels and accuracies play no part here; the
images are made up.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import common, published
from benchmarks.features import fastest_batch, in_batches, onnxruntime_way
from benchmarks.steps import Step, make_images
from clustering.features import Embedder
from clustering.mining import mine_neighbors
from clustering.scores import contingency, match, score
from clustering.validation import validation_loss
from data.augment import Strategy, build_augmentation
from models.engine import Engine
from models.pretrained import build_pretrained
from system.runtime import Runtime, can_compile
from utils import cli
from utils.common_config import get_val_transformations
from utils.schema import Config

NORMALIZE = {"mean": published.MEAN, "std": published.STD}
BATCH = 256
BACKBONE = "efficientnet_lite0"
KNN_EVERY: int = Config.model_fields["knn_every"].default


def simclr_strategy() -> Strategy:
    return build_augmentation(
        "simclr",
        random_resized_crop={"size": 32, "scale": [0.2, 1.0]},
        color_jitter_random_apply={"p": 0.8},
        color_jitter={"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
        random_grayscale={"p": 0.2},
        normalize=NORMALIZE,
    )


def strong_strategy() -> Strategy:
    cutout = {"n_holes": 1, "length": published.CUTOUT, "random": True}
    return build_augmentation(
        "ours", crop_size=32, normalize=NORMALIZE, num_strong_augs=published.NUM_STRONG, cutout_kwargs=cutout
    )


def compare(
    unit: str,
    old: Callable[[], Any],
    new: Callable[[], Any],
    repeats: int,
    device: torch.device,
    items: int = 1,
    scale: float = 1.0,
) -> dict[str, Any]:
    """Time two calls in turn; `scale` multiplies the seconds of the first, which may do but a part of the work."""
    pairs = []
    for number in range(repeats + 1):  # the first pair warms up
        seconds = [common.time_calls(call, 1, device, warm_up=0)[0] for call in (old, new)]
        if number:
            pairs.append((seconds[0] * scale, seconds[1]))
    return {
        "unit": unit,
        "items": items,
        "published_seconds": common.summary([a for a, _ in pairs]),
        "ours_seconds": common.summary([b for _, b in pairs]),
        "ratio": common.summary([a / b for a, b in pairs]),
    }


def augmentation(runtime: Runtime, quick: bool) -> dict[str, Any]:
    """Views on one core: PIL, batched, and compiled where there is a compiler."""
    num, repeats = (256, 1) if quick else (2048, 5)
    images = make_images(num).images
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = {}
    for name, make, strategy in (
        ("SimCLR views", published.simclr(), simclr_strategy()),
        ("strong views", published.strong(), strong_strategy()),
    ):
        old = _image_by_image(make, arrays)
        new = _batches(strategy, images)
        results[name] = compare("view", old, new, repeats, torch.device("cpu"), num)
        if name == "SimCLR views" and can_compile(torch.device("cpu")) and not quick:
            strategy.compile(num, runtime.guarded_compile)
            results[f"{name}, compiled"] = compare("view", old, new, repeats, torch.device("cpu"), num)
    torch.set_num_threads(threads)
    return results


def _image_by_image(make: Callable, arrays: np.ndarray) -> Callable[[], Any]:
    return lambda: [make(published.Image.fromarray(array)) for array in arrays]


def _batches(strategy: Strategy, images: Tensor) -> Callable[[], Any]:
    random = torch.Generator().manual_seed(0)
    return lambda: strategy.run(images, strategy.draw(len(images), random))


def steps(runtime: Runtime, quick: bool) -> dict[str, Any]:
    """Whole training steps of every stage, views included: ResNet-18, 32x32, batch 256; and what monitoring adds."""
    batch_size, repeats, width = (16, 1, 4) if quick else (BATCH, 3, 64)
    words = [f"batch_size={batch_size}", f"width={width}"]
    results = {}
    for stage in published.LOSSES:
        own = [f"confidence_threshold={published.THRESHOLD}"] if stage == "selflabel" else []
        new = Step(stage, runtime, [*words, *own], num_images=40 * batch_size)
        old = published.steps(stage, new.dataset.images, width, batch_size, runtime.device)
        result = compare("image", partial(next, old), new, repeats, runtime.device, batch_size)
        old.close()  # its workers end here
        results[f"{stage} step"] = result | {"monitoring_share": monitoring_share(new, result)}
    return results


def monitoring_share(step: Step, result: dict[str, Any]) -> float:
    """What looking at validation images adds to an epoch of CIFAR-10, at the default intervals, without the scoring."""
    p, runtime = step.p, step.runtime
    some = make_images(4 * p.batch_size)
    strategy = get_val_transformations(p)

    def look() -> Any:
        embedder = Embedder(strategy, runtime, p.batch_size)
        return embedder.embed(step.model.backbone, some, dtype=runtime.training)

    seconds = common.summary(common.time_calls(look, 3, runtime.device))["median"] / len(some)
    looked_at = 60_000 / KNN_EVERY if step.stage == "simclr" else 10_000
    return round(looked_at * seconds / (50_000 * result["ours_seconds"]["median"] / result["items"]), 4)


def _clustered(num: int, num_dims: int) -> Tensor:
    """Features with some structure: 100 centers and noise about them, unit length, float32 [num, num_dims]."""
    random = torch.Generator().manual_seed(0)
    centers = torch.randn(100, num_dims, generator=random)
    points = centers[torch.randint(100, (num,), generator=random)] + torch.randn(num, num_dims, generator=random)
    return functional.normalize(points, dim=1)


def mining(runtime: Runtime, quick: bool) -> dict[str, Any]:
    """The 20 nearest of 50,000 features of 128 dimensions: a flat faiss index, and ours, which is exact in float64."""
    try:
        import faiss
    except ImportError:
        return {}
    num, repeats = (2000, 1) if quick else (50_000, 3)
    features = _clustered(num, 128)

    def by_faiss() -> Any:
        index = faiss.IndexFlatIP(128)
        index.add(features.numpy())
        return index.search(features.numpy(), 21)

    placed = features.to(runtime.device)
    results = {
        f"mining {num} x 128": compare(
            "image", by_faiss, lambda: mine_neighbors(placed, 20), repeats, runtime.device, num
        )
    }
    return results


def evaluation(runtime: Runtime, quick: bool) -> dict[str, Any]:
    """Matching of 1,000 clusters, all scores of a million predictions, and the label-free validation loss."""
    num, classes, repeats = (2000, 50, 1) if quick else (50_000, 1000, 5)
    random = torch.Generator().manual_seed(0)
    clusters, targets = (torch.randint(classes, (num,), generator=random) for _ in range(2))
    sample = [(i % classes, 7 * i % classes) for i in range(2000 if quick else 10_000)]

    def ours() -> Any:
        return match(contingency(clusters, targets, classes, classes))

    def count() -> Any:
        return contingency(clusters, targets, classes, classes)

    def passes() -> Any:
        return published.match_passes(clusters, targets, sample)

    scale, cpu = classes**2 / len(sample), torch.device("cpu")
    results = {
        f"counting {classes}² pairs of {num}": compare("sample", passes, count, repeats, cpu, num, scale),
        f"matching {classes} clusters of {num}": compare("sample", passes, ours, repeats, cpu, num, scale),
    }
    many = num * 20
    probabilities = torch.rand(many, classes, generator=random)
    found, labels, few = probabilities.argmax(1), torch.randint(classes, (many,), generator=random), sample[:50]

    def all_scores() -> Any:
        return score(probabilities, labels, classes)

    def few_passes() -> Any:
        return published.match_passes(found, labels, few)

    name = f"all scores of {many} x {classes}"
    results[name] = compare("sample", few_passes, all_scores, 1 if quick else 3, cpu, many, classes**2 / len(few))
    num = 1000 if quick else 10_000
    probabilities = torch.randn(num, 10, generator=random).mul(3).softmax(1)
    neighbors = torch.randint(num, (num, 6), generator=random)
    results[f"validation loss of {num}"] = compare(
        "sample",
        lambda: published.validation_loss(probabilities, neighbors),
        lambda: validation_loss(probabilities, neighbors),
        repeats,
        cpu,
        num,
    )
    return results


def features(runtime: Runtime, quick: bool) -> dict[str, Any]:
    """Features of a pretrained network on the processor: onnxruntime as it comes, and the engine."""
    side, num, repeats = (64, 8, 1) if quick else (128, 128, 15)
    network = build_pretrained(BACKBONE, side=side)["backbone"]
    engine, other = Engine(network, side), onnxruntime_way(network, side, torch.get_num_threads())
    images = torch.randn(num, 3, side, side, generator=torch.Generator().manual_seed(0))
    old = partial(in_batches, other, fastest_batch(other, images), images)
    found = compare("image", old, lambda: engine(images), repeats, torch.device("cpu"), num)
    return {f"features, {BACKBONE} at {side}": found}


SECTIONS: dict[str, Callable[[Runtime, bool], dict[str, Any]]] = {
    "augmentation": augmentation,
    "steps": steps,
    "mining": mining,
    "evaluation": evaluation,
    "features": features,
}


def show(name: str, result: dict[str, Any]) -> None:
    """Print one line: rates of both ways, and the ratio with its range."""
    old, new = (result["items"] / result[f"{way}_seconds"]["median"] for way in ("published", "ours"))
    ratio = result["ratio"]
    spread = f"{ratio['min']:.3g} to {ratio['max']:.3g}"
    more = f"; monitoring {result['monitoring_share']:.1%} of an epoch" if "monitoring_share" in result else ""
    rates = f"{old:12,.0f} {new:14,.0f} {result['unit']}s/s"
    print(f"{name:32} {rates} {ratio['median']:10,.3g}x   ({spread}){more}", flush=True)


def main() -> int:
    parser = cli.Parser(__doc__)
    parser.add_argument("--json", type=cli.path, metavar="FILE", help="also write the numbers to this file")
    parser.add_argument("--only", choices=SECTIONS, help="measure one section")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="a rehearsal in seconds, with sizes that mean nothing")
    args = parser.parse_args()
    if args.only and args.json and Path(args.json).exists():
        parser.error(f"{args.json} exists, and one section would replace all of it; give --json another name")
    started = time.monotonic()
    runtime = Runtime.start(args.device, "auto", False if args.quick else "auto")
    facts = common.machine(runtime.device)
    print(f"{facts['cpu']}, {facts['cores']} cores ({' '.join(facts['cpu_flags'])}), {facts['device']}")
    print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    print(f"{'':32} {'published':>12} {'ours':>14} {'':10} {'ratio':>7}   (range)")
    results: dict[str, Any] = {}
    for section in [args.only] if args.only else SECTIONS:
        found = SECTIONS[section](runtime, args.quick)
        for name, result in found.items():
            show(name, result)
        results |= found
    seconds = round(time.monotonic() - started, 1)
    print(f"{seconds:.0f} s; precision of our steps: {str(runtime.training).removeprefix('torch.')}")
    if args.json:
        whole = {"machine": facts, "precision": str(runtime.training), "seconds": seconds, "results": results}
        common.write_result(args.json, whole | {"peak_memory_gb": common.peak_memory_gb(runtime.device)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
