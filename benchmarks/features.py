"""How fast are a pretrained backbone's features? Ours against onnxruntime as it comes, in one run, in turn.

    python -m benchmarks.features --json benchmarks/results/features.json       # two minutes on two idle cores
    python -m benchmarks.features --backbone efficientnet_lite2 --side 224

Both get the same normalized images and as many threads. onnxruntime as it comes runs the exported network with its
threads inside each operator, in the batch size that is fastest for it here; so do PyTorch's fp32 and bf16 in
channels_last. Ours is `models.engine.Engine`; the `pixels` row is what comes before it, bytes of small images resized
and normalized. Ratios are of measurements side by side; their median is told. With random weights for networks that
are not installed: speed does not depend on them.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import common
from data.augment import Normalize
from data.augment.pretrained import Pretrained
from models.embedded import EMBEDDED
from models.engine import Engine
from models.export import to_onnx
from models.pretrained import build_pretrained

BATCHES = (8, 16, 32)  # tried for everything that is not ours
SMALL = 32  # side of the images that the pixels row enlarges

Way = Callable[[Tensor], Tensor]


def onnxruntime_way(network: nn.Module, side: int, threads: int) -> Way:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(to_onnx(network, side), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@torch.no_grad()
def torch_way(network: nn.Module, dtype: torch.dtype, images: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return network(images.contiguous(memory_format=torch.channels_last)).float()


def in_batches(way: Way, size: int, images: Tensor) -> Tensor:
    return torch.cat([way(part) for part in images.split(size)])


def seconds(way: Way, images: Tensor) -> float:
    started = time.perf_counter()
    way(images)
    return time.perf_counter() - started


def fastest_batch(way: Way, images: Tensor) -> int:
    """The batch size with the shortest of three times, found before anything is compared."""
    times = {size: min(seconds(partial(in_batches, way, size), images) for _ in range(3)) for size in BATCHES}
    return min(times, key=times.__getitem__)


def measure(ways: dict[str, Way], images: dict[str, Tensor], repeats: int) -> dict[str, list[float]]:
    """Images per second of every way in every round; the first round warms up."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, way in ways.items():
            rate = len(images[name]) / seconds(way, images[name])
            if number:
                rates[name].append(rate)
    return rates


def compare(backbone: str, side: int, num_images: int, repeats: int) -> dict[str, Any]:
    threads = torch.get_num_threads()
    network = build_pretrained(backbone, side=side, load=backbone in EMBEDDED)["backbone"]
    engine = Engine(network, side)
    images = torch.randn(num_images, 3, side, side, generator=torch.Generator().manual_seed(0))
    others: dict[str, Way] = {
        "onnxruntime": onnxruntime_way(network, side, threads),
        "torch fp32": partial(torch_way, network.to(memory_format=torch.channels_last), torch.float32),
        "torch bf16": partial(torch_way, network, torch.bfloat16),
    }
    batches = {name: fastest_batch(way, images) for name, way in others.items()}
    ways: dict[str, Way] = {name: partial(in_batches, way, batches[name]) for name, way in others.items()}
    expected = ways["torch fp32"](images)
    found = {"ours": engine(images), **{name: way(images) for name, way in ways.items()}}
    cosines = {name: functional.cosine_similarity(part, expected).min().item() for name, part in found.items()}
    pixels = torch.randint(256, (num_images, 3, SMALL, SMALL), dtype=torch.uint8)
    resize = Pretrained(side, Normalize(mean=[0.5] * 3, std=[0.5] * 3))
    inputs = dict.fromkeys(("ours", *ways), images) | {"pixels": pixels}
    rates = measure({"ours": engine, **ways, "pixels": resize}, inputs, repeats)
    base = rates["onnxruntime"]
    return {
        "backbone": backbone,
        "side": side,
        "choice": asdict(engine.choice),
        "batches": batches,
        "images_per_second": {name: common.summary(values) for name, values in rates.items()},
        "ratio_to_onnxruntime": {
            name: statistics.median(rate / other for rate, other in zip(values, base, strict=True))
            for name, values in rates.items()
        },
        "lowest_cosine": cosines,
    }


def show(result: dict[str, Any]) -> None:
    choice = result["choice"]
    print(f"{result['backbone']} at {result['side']}: {choice['library']} {choice['precision']}")
    for name, rate in result["images_per_second"].items():
        cosine = result["lowest_cosine"].get(name)
        same = "" if cosine is None else f"   cosine {cosine:.5f}"
        print(f"  {name:12} {rate['median']:8.0f} images/s   {result['ratio_to_onnxruntime'][name]:5.2f} x{same}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="measure this one alone")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    asked = (
        [(args.backbone, args.side)] if args.backbone else [("efficientnet_lite0", 128), ("efficientnet_lite0", 224)]
    )
    if not args.backbone:
        asked += [("efficientnet_lite2", 128), ("dinov2", 126)]
    results = []
    for backbone, side in asked:
        results.append(compare(backbone, side, args.images, args.repeats))
        show(results[-1])
    if args.json:
        common.write_result(args.json, {"machine": common.machine(), "repeats": args.repeats, "results": results})


if __name__ == "__main__":
    main()
