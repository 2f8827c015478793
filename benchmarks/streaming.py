"""Images that do not fit into memory: do the workers that decode them keep up, and what does each stage take?

    python -m benchmarks.streaming --data DIR               # DIR/train/<class>/*.jpg and DIR/val/<class>/*.jpg
    python -m benchmarks.streaming --data DIR width=32 simclr.epochs=4 scan.epochs=2 selflabel.epochs=2

Runs the Imagenette recipe with `stream: true`. First the workers of the pretext task alone, then with its steps;
`waited` is the share of its time that a step waits for them. On a CPU they take from the network what they need.
Writes benchmarks/results/streaming.json.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import simclr
from benchmarks import common
from benchmarks.cifar10 import STAGES, run_stage
from system.runtime import Runtime
from training.run import Run
from utils import cli
from utils.common_config import (
    get_criterion,
    get_model,
    get_optimizer,
    get_train_dataset,
    get_train_transformations,
    get_view_loader,
)
from utils.config import load_config
from utils.overrides import words_of
from utils.stage import KEYS

CONFIGS = {
    stage: common.ROOT / "configs" / folder / f"{name}_imagenette.yml"
    for stage, folder, name in (
        ("pretext", "pretext", "simclr"),
        ("scan", "scan", "scan"),
        ("selflabel", "selflabel", "selflabel"),
    )
}
NUM_STEPS = 12


def keep_up(words: Sequence[str]) -> dict[str, Any]:
    """Views a second of the workers alone and within training steps, and the share of the steps spent waiting."""
    p = load_config(None, words[1], words[2:])
    runtime = Runtime.of(p)
    train, augment = get_train_dataset(p, None), get_train_transformations(p)
    run = Run(p, runtime, "pretext", Path(p.pretext_dir), KEYS)
    loader = get_view_loader(p, train, [augment, augment], run)
    model = runtime.place(get_model(p)).train()
    forward, criterion = run.prepare(model, get_optimizer(p, model), loader), get_criterion(p)
    found: dict[str, Any] = {"num_workers": p.num_workers, "batch_size": p.batch_size}
    for what in ("alone", "with_steps"):
        decoded, waited = loader.crops(0), 0.0
        next(decoded)  # the start of the workers does not count
        started = time.perf_counter()
        for _ in range(NUM_STEPS):
            asked = time.perf_counter()
            crops = next(decoded)
            waited += time.perf_counter() - asked
            if what == "with_steps":
                run.step(simclr.step(forward, criterion, *loader.finish(crops)))
                common.synchronize(runtime.device)
        seconds = time.perf_counter() - started
        del decoded  # and its workers
        found[f"views_per_second_{what}"] = round(2 * p.batch_size * NUM_STEPS / seconds, 1)
    found["waited"] = round(waited / seconds, 4)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = cli.base_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds train/<class> and val/<class>")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "streaming.json", metavar="FILE")
    args = parser.parse_intermixed_args(argv)
    roots = [f"{split}_db_kwargs.root={args.data / split}" for split in ("train", "val")]
    streamed = [f"{split}_db_kwargs.stream=true" for split in ("train", "val")]
    words = {
        stage: ["--config_exp", str(config), *roots, *streamed, *words_of(stage, args.overrides)]
        for stage, config in CONFIGS.items()
    }
    device = Runtime.start().device
    result: dict[str, Any] = {"overrides": args.overrides, "workers": keep_up(words["pretext"])}
    print(result["workers"], flush=True)
    result["stages"] = {stage: run_stage(stage, words[stage], None, device) for stage in STAGES}
    common.write_result(args.out, result | {"machine": common.machine(device)})
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
