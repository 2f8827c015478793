"""Kill the commands for people at random moments, many times, and count the processes and files that are left.

    python -m benchmarks.kills
    python -m benchmarks.kills --kills 8 --out /tmp/kills.json

cluster.py, predict.py (table, features and copies), the cache of a folder and sweep.py are killed with SIGKILL at a
random moment and started again by the same command, until they end. After every kill the processes are counted that
are still there five seconds later; at the end unexpected files, and files that differ from what an
undisturbed run leaves. Commands are forked from this process, as in `benchmarks.crash`, of whose results these become
the part `commands`; a sweep's runs are processes of their own. Processes are found in /proc, so this runs on Linux.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import cluster
import predict
import sweep
from benchmarks import common
from data.folder import build
from system.files import MANIFEST
from training import checkpoint
from utils import cli

MARK = "SCAN_BENCHMARK_KILLS"  # in the environment of what a killed command started
ORPHANED = 5.0  # seconds after which a process that outlived its parent counts
MOST_ATTEMPTS = 200  # to finish one command
NUM_IMAGES = {"photos": 90, "many": 900}
# What names a process, of the time it took, or of the step at which it was killed.
SKIPPED = {".lock", MANIFEST, checkpoint.PREVIOUS, "log.txt", "report.html", "table.md"}


@dataclass(frozen=True)
class Command:
    """A command line: what runs it, the words that name `folder` as its place, and its share of the kills."""

    main: Callable[[Sequence[str] | None], int]
    words: tuple[str, ...]
    share: int


def write_cache(words: Sequence[str] | None) -> int:
    """Open a folder's data set, which writes its cache."""
    images, folder = words or ()
    build(Path(images), "train", 24, cache_dir=folder)
    return 0


def commands(images: Path, model: Path) -> dict[str, Command]:
    """The commands by their names, in the order in which they run: predict.py needs what cluster.py left."""
    short = (
        "epochs=2",
        "width=4",
        "checkpoint_every.minutes=0.005",
        "num_workers=0",
        "selflabel.confidence_threshold=0.35",
    )
    few = ("train_db_kwargs.num_images=200", "val_db_kwargs.num_images=100")
    one_epoch = ("epochs=1", "width=4", "seed=0,1", "num_workers=0", *few)
    digits = str(common.ROOT / "configs" / "pretext" / "simclr_digits.yml")
    return {
        "cluster.py": Command(
            cluster.main, (str(images / "photos"), "--num_clusters", "3", "--output", "{folder}", *short), 4
        ),
        "predict.py": Command(
            predict.main,
            (
                *("--model", str(model), str(images / "many"), "--output", "{folder}/clusters.csv"),
                *("--embeddings", "{folder}/features.npy", "--copy_to", "{folder}/sorted"),
            ),
            5,
        ),
        "cache": Command(write_cache, (str(images / "many"), "{folder}"), 4),
        "sweep.py": Command(
            sweep.main, ("simclr", "--config_env", "{folder}.yml", "--config_exp", digits, *one_epoch), 2
        ),
    }


def make_images(folder: Path) -> None:
    """Noisy images of three colors."""
    draws = np.random.default_rng(0)
    colors = np.array([(220, 40, 40), (40, 200, 40), (40, 60, 220)], dtype=float)
    for name, number in NUM_IMAGES.items():
        (folder / name).mkdir(parents=True)
        for index in range(number):
            pixels = colors[index % 3] + draws.normal(0, 25, (32, 32, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / name / f"{index:04}.png")


def start(command: Command, folder: Path, log: Path) -> int:
    """Start a command as a process of its own, in a session of its own; returns its id."""
    child = os.fork()
    if child:
        return child
    code: Any = 1
    try:
        os.setsid()
        os.environ[MARK] = str(os.getpid())
        with log.open("a") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
            os.dup2(file.fileno(), sys.stderr.fileno())
        folder.mkdir(parents=True, exist_ok=True)
        code = cli.run(command.main, [word.replace("{folder}", str(folder)) for word in command.words])
    except SystemExit as error:
        code = error.code
    except BaseException:  # an unexpected error belongs in the log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def started_by(leader: int) -> list[int]:
    """The processes of a session or with its mark in their environment, without zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended just now, or is another user's
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            marked = f"{MARK}={leader}\0".encode() in (folder / "environ").read_bytes()
            if fields[0] not in "ZX" and (int(fields[3]) == leader or marked):
                found.append(int(folder.name))
    return found


def orphans(leader: int) -> list[str]:
    """What of a killed command is still there after five seconds, in words; it is then ended."""
    end = time.monotonic() + ORPHANED
    while (found := started_by(leader)) and time.monotonic() < end:
        time.sleep(0.05)
    told = []
    for pid in found:
        with contextlib.suppress(OSError):
            told.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200])
            os.kill(pid, signal.SIGKILL)
    return told


def content(path: Path) -> Any:
    """What two runs must have in common: all but the times that they took."""
    if path.suffix == ".tar":
        state = torch.load(path, weights_only=True)
        state.pop("seconds", None)
        return repr(common.plain(state))
    if path.name in ("run.json", "cluster.json"):
        return json.loads(path.read_text())["result"]
    if path.name == "table.csv":
        with path.open(encoding="utf-8", newline="") as file:
            return [{key: row[key] for key in row if "seconds" not in key} for row in csv.DictReader(file)]
    return path.read_bytes()


def compare(folder: Path, reference: Path) -> tuple[list[str], list[str]]:
    """Names of the files that differ from the reference or are missing, and of those that it does not have."""
    names, expected = (
        {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.suffix != ".log"}
        for root in (folder, reference)
    )
    same = {name for name in names & expected if Path(name).name not in SKIPPED}
    differing = sorted(name for name in same if content(folder / name) != content(reference / name))
    strays = {name for name in names - expected if Path(name).name not in SKIPPED}
    return differing + sorted(expected - names), sorted(strays)


class Kills:
    """Counts over all commands."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.orphans: list[str] = []
        self.differing: list[str] = []
        self.strays: list[str] = []
        self.failed: list[str] = []
        self.seconds: dict[str, float] = {}

    @property
    def wrong(self) -> list[str]:
        """All that should not have been."""
        return self.orphans + self.differing + self.strays + self.failed

    def run(self, name: str, command: Command, work: Path, most: int) -> None:
        """Run a command undisturbed, then bring it to its end again and again until it was killed `most` times."""
        folder, reference, log = work / name, work / f"{name} undisturbed", work / f"{name}.log"
        began = time.monotonic()
        code = common.wait(start(command, folder, log), 1e9)
        self.seconds[name] = time.monotonic() - began
        if code:
            self.failed.append(f"{name} undisturbed ended with {code}: {log.read_text()[-500:]}")
            return
        folder.rename(reference)
        while self.kills[name] < most and not self.failed:
            self._bring_to_its_end(name, command, folder, log, most)
            if not self.failed:
                differing, strays = compare(folder, reference)
                self.differing += [f"{name}: {found}" for found in differing]
                self.strays += [f"{name}: {found}" for found in strays]
                self.ended[name] += 1
                shutil.rmtree(folder)

    def _bring_to_its_end(self, name: str, command: Command, folder: Path, log: Path, most: int) -> None:
        for _ in range(MOST_ATTEMPTS):
            enough = self.kills[name] >= most
            leader = start(command, folder, log)
            code = common.wait(leader, 1e9 if enough else self.random.uniform(0, self.seconds[name]))
            self.orphans += [f"{name}: {found}" for found in orphans(leader)]
            if code is None:
                self.kills[name] += 1
            elif code == 0:
                return
            else:
                break
        self.failed.append(f"{name} ended with {code}: {log.read_text()[-500:]}")

    def result(self) -> dict[str, Any]:
        """The counts, for a file of results."""
        return {
            "kills": self.kills.total(),
            "kills_by_command": dict(self.kills),
            "runs_ended": dict(self.ended),
            "orphans_after_seconds": ORPHANED,
            "orphans": self.orphans,
            "files_differing_from_the_reference": self.differing,
            "stray_files": self.strays,
            "failed": self.failed,
            "seconds_undisturbed": {name: round(seconds, 2) for name, seconds in self.seconds.items()},
        }


def measure(most: int, seed: int) -> Kills:
    """Kill every command its share of `most` times, at least once."""
    torch.set_num_threads(1)
    counted = Kills(seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        make_images(work / "images")
        (work / "sweep.py.yml").write_text(
            json.dumps({"root_dir": str(work / "sweep.py"), "threads": 1})
        )  # JSON is YAML
        model = work / "cluster.py undisturbed" / "runs" / "scan"
        all_commands = commands(work / "images", model)
        shares = sum(command.share for command in all_commands.values())
        for name, command in all_commands.items():
            counted.run(name, command, work, max(1, -(-most * command.share // shares)))
            print(f"{name}: {counted.kills[name]} kills, {counted.ended[name]} runs ended", flush=True)
    return counted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=common.RESULTS / "crash.json", help="where `commands` is replaced")
    args = parser.parse_args()
    began = time.monotonic()
    counted = measure(args.kills, args.seed)
    known = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    facts = {"machine": common.machine(), **counted.result(), "seconds": time.monotonic() - began}
    common.write_result(args.out, {**known, "commands": facts})
    print("\n".join(counted.wrong) if counted.wrong else f"{counted.kills.total()} kills left no process and no file")
    return 1 if counted.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
