"""Kill the stages at random moments, again and again, and see what is left; then damage what they wrote.

    python -m benchmarks.crash
    python -m benchmarks.crash --kills 5 --flips 30 --out /tmp/crash.json

Every stage of a short digits run is killed with SIGKILL at a random moment of its work and started again by the same
command, until it ends; then its files are compared, to the bit, with those of a run that was not disturbed. The stages
are forked from this process, which has imported everything and computed nothing, so that kills hit their work and not
Python's start. Writes benchmarks/results/crash.json.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

import scan
import selflabel
import simclr
from benchmarks import common
from clustering.neighbors import load_neighbors
from models.resnet_cifar import resnet18
from models.weights import read_weights
from system import files
from system.errors import UserError
from training import checkpoint
from utils import cli

STAGES = {
    "pretext": (simclr.main, "pretext/simclr_digits.yml", []),
    "scan": (scan.main, "scan/scan_digits.yml", []),
    "selflabel": (selflabel.main, "selflabel/selflabel_digits.yml", ["confidence_threshold=0.5", "use_ema=true"]),
}
SHORT = ["epochs=4", "width=8", "checkpoint_every.minutes=0.005"]  # a checkpoint every third of a second
NUM_TRAIN, NUM_VAL = 1437, 360
MOST_ATTEMPTS = 200  # to finish one stage


def start(stage: str, root: Path) -> int:
    """Start a stage as a process of its own; returns its id."""
    main, config, words = STAGES[stage]
    child = os.fork()
    if child:
        return child
    with (root / "log.txt").open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    code: Any = 1
    try:
        code = cli.run(
            main, ["--config_exp", str(common.ROOT / "configs" / config), f"root_dir={root}", *SHORT, *words]
        )
    finally:
        os._exit(code)


def unreadable(folder: Path) -> list[str]:
    """Names of the files that are not whole, or not what was recorded; what a writer left behind does not count."""
    readers = {
        ".tar": lambda path: torch.load(path, weights_only=True),
        ".npy": np.load,
        ".png": lambda path: Image.open(path).load(),
        ".json": lambda path: json.loads(path.read_text()),
        ".yml": lambda path: yaml.safe_load(path.read_text()),
        ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    }
    found = []
    for path in folder.glob("*"):
        if path.suffix in readers:
            try:
                files.verify_file(path)
                readers[path.suffix](path)
            except Exception as error:  # whatever a damaged file makes of its reader
                found.append(f"{path.name}: {error}")
    return found


def content(path: Path) -> Any:
    """What two runs must have in common, to the bit: all but the times that they took."""
    if path.suffix == ".tar":
        state = common.plain(torch.load(path, weights_only=True))
        return {key: value for key, value in state.items() if key != "seconds"}
    if path.name == "run.json":
        return json.loads(path.read_text())["result"]
    return path.read_bytes()


def compare(folder: Path, reference: Path) -> tuple[list[str], list[str]]:
    """Names of the files that differ from the reference, and of those that it does not have."""
    names = {path.name for path in folder.iterdir()}
    expected = {path.name for path in reference.iterdir()}
    skipped = {".lock", files.MANIFEST, checkpoint.PREVIOUS, "config.yml"}  # a process, checksums, a step, a path
    same = names & expected - skipped
    differing = sorted(name for name in same if content(folder / name) != content(reference / name))
    return differing + sorted(expected - names), sorted(names - expected)


class Crashes:
    """Counts over all rounds."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.unreadable: list[str] = []
        self.differing: list[str] = []
        self.strays: list[str] = []
        self.failed: list[str] = []
        self.lost: list[float] = []
        self.num_runs = 0

    def round(self, root: Path, reference: Path, seconds: dict[str, float], most: int) -> None:
        """Bring all stages to their end once, killing them on the way, no more than `most` times in all."""
        for stage in STAGES:
            for _ in range(MOST_ATTEMPTS):
                enough = self.kills.total() >= most
                began = time.time()
                code = common.wait(start(stage, root), 1e9 if enough else self.random.uniform(0, seconds[stage]))
                if code is not None:
                    break
                self._look(stage, root / "digits" / stage, began)
            if code:
                self.failed.append(f"{stage} ended with {code}: {(root / 'log.txt').read_text()[-500:]}")
                return
            self.num_runs += 1
            differing, strays = compare(root / "digits" / stage, reference / "digits" / stage)
            self.differing += [f"{stage}/{name}" for name in differing]
            self.strays += [f"{stage}/{name}" for name in strays]

    def _look(self, stage: str, folder: Path, began: float) -> None:
        """What a kill left, and the time since the last checkpoint, or since the start when there was none."""
        now = time.time()
        newest = folder / checkpoint.NEWEST
        saved = newest.stat().st_mtime if newest.exists() else 0.0
        self.lost.append(now - max(began, saved))
        self.kills[stage] += 1
        self.unreadable += [f"{stage}/{name}" for name in unreadable(folder)]


def flips(reference: Path, number: int, seed: int) -> dict[str, Any]:
    """Flip single bits in whatever a stage reads again, one at a time, and count those that its reader notices."""
    readers: dict[str, Any] = {
        "topk-train-neighbors.npy": lambda path: load_neighbors(path, NUM_TRAIN, 5),
        "topk-val-neighbors.npy": lambda path: load_neighbors(path, NUM_VAL, 5),
    }
    readers |= {"model.pth.tar": read_weights, "model-best.pth.tar": read_weights}
    recorded = [path for path in sorted(reference.glob("digits/*/*")) if files_of_record(path)]
    places = random.Random(seed)
    noticed: Counter[str] = Counter()
    missed = []
    for flip in range(number):
        path = recorded[flip % len(recorded)]
        whole = path.read_bytes()
        place, bit = places.randrange(len(whole)), places.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        try:
            readers.get(path.name, files.verify_file)(path)
            missed.append(f"{path.parent.name}/{path.name}, byte {place}, bit {bit}")
        except UserError:
            noticed[path.name] += 1
        path.write_bytes(whole)
    return {"flips": number, "noticed": noticed.total(), "missed": missed, "by_file": dict(noticed)}


def files_of_record(path: Path) -> bool:
    """Whether a file has a checksum, or is where checksums stand."""
    return path.name == files.MANIFEST or (path.is_file() and files.verify_file(path) is not None)


def checkpoint_cost(root: Path, repeats: int = 5) -> dict[str, Any]:
    """Seconds to write a resumable checkpoint of the CIFAR-10 recipe: ResNet-18 and the momentum of SGD."""
    model = resnet18()["backbone"]
    momentum = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    state = {"model": model.state_dict(), "optimizer": {"state": momentum}}
    root.mkdir()
    seconds = common.time_calls(lambda: checkpoint.save(root, state), repeats)
    return {"mib": round(checkpoint.num_bytes(state) / 2**20, 1), "seconds": common.summary(seconds)}


def reference_run(root: Path) -> dict[str, float]:
    """Run all stages untouched; returns the seconds of each."""
    seconds = {}
    for stage in STAGES:
        began = time.monotonic()
        code = common.wait(start(stage, root), 1e9)
        if code:
            raise SystemExit(f"the reference's {stage} ended with {code}: {(root / 'log.txt').read_text()[-2000:]}")
        seconds[stage] = time.monotonic() - began
    return seconds


def rounds(root: Path, reference: Path, seconds: dict[str, float], crashes: Crashes, kills: int) -> Iterator[int]:
    """Rounds of all stages until there were enough kills; yields the number of kills so far."""
    while crashes.kills.total() < kills and not crashes.failed:
        root.mkdir()
        crashes.round(root, reference, seconds, kills)
        shutil.rmtree(root)
        yield crashes.kills.total()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=150)
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=common.RESULTS / "crash.json")
    args = parser.parse_args()

    torch.set_num_threads(1)  # two threads that wait for each other are slower on so little, and kills come sooner
    crashes = Crashes(args.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        reference.mkdir()
        seconds = reference_run(reference)
        for done in rounds(Path(folder) / "crashed", reference, seconds, crashes, args.kills):
            print(f"{done} kills, {crashes.num_runs} runs ended, {time.monotonic() - began:.0f} s", flush=True)
        damage = flips(reference, args.flips, args.seed)
        cost = checkpoint_cost(Path(folder) / "cost")

    result = {
        "machine": common.machine(),
        "kills": crashes.kills.total(),
        "kills_by_stage": dict(crashes.kills),
        "runs_ended": crashes.num_runs,
        "unreadable_files": crashes.unreadable,
        "files_differing_from_the_reference": crashes.differing,
        "stray_files": crashes.strays,
        "failed": crashes.failed,
        "seconds_lost_per_kill": {
            "mean": statistics.fmean(crashes.lost),
            "median": statistics.median(crashes.lost),
            "max": max(crashes.lost),
        },
        "seconds_between_checkpoints": 60 * 0.005,
        "seconds_of_a_stage": seconds,
        "bit_flips": damage,
        "writing_a_checkpoint": cost,
        "seconds": time.monotonic() - began,
    }
    common.write_result(args.out, result)
    wrong = crashes.unreadable + crashes.differing + crashes.strays + crashes.failed + damage["missed"]
    print("\n".join(wrong) if wrong else f"{crashes.kills.total()} kills and {args.flips} flipped bits: nothing lost")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
