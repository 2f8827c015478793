"""The methods next to one another, and what of the method matters: the tables of the papers, row by row.

    python -m benchmarks.ablations --list
    python -m benchmarks.ablations --data CIFAR --mnist MNIST               # all rows that are not there yet
    python -m benchmarks.ablations --mnist MNIST --only mnist-kmeans --only mnist-iic --minutes 60
    python -m benchmarks.ablations --data CIFAR --only changes- --minutes 480   # a night: all rows that begin so
    python -m benchmarks.ablations --only digits-scan-strong scan.epochs=1 --folder scratch --out rehearsal.json

CIFAR holds train/<class>/*.jpg and test/<class>/*.jpg, MNIST the published files. Every row is the stage scripts as one
would type them, so that a row goes on where it stopped: after --minutes the script at work is told to stop, writes its
checkpoint, and the same command continues. A row that is done is written to benchmarks/results/ablations.json with its
machine, commit and commands; to run it again, delete it there and its runs in --folder. Labels only score.
"""

import contextlib
import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.ablation_rows import ROWS, Row, Step
from system.errors import ConfigError, UserError
from system.files import write_text
from system.text import quoted
from training.record import read_record
from utils import cli
from utils.config import load_config
from utils.overrides import words_of
from utils.setups import SETUPS

STOPPED = (130, 143, -2, -15)  # by a signal, after a checkpoint or before there was anything to write
STOPPED_BY = "warning: stopped by a signal"  # a log of a row that went on has it


class OutOfTimeError(Exception):
    """The minutes are over; what was at work has written its checkpoint."""


class Bench:
    """Runs the steps of rows, all in one folder of results, until the minutes are over."""

    def __init__(self, args: Any) -> None:
        self.folder, self.overrides, self.data = args.folder, args.overrides, args.data
        self.mnist, self.out = args.mnist, args.out
        self.end = time.monotonic() + 60 * args.minutes if args.minutes else None
        self.env = args.folder / "env.yml"
        paths = f"data_paths: {{mnist: {json.dumps(str(args.mnist))}}}\n" if args.mnist else ""
        args.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.env, f"root_dir: {json.dumps(str(args.folder))}\n{paths}", record=False)

    def can_run(self, row: Row) -> str:
        """What a row lacks; empty when nothing."""
        names = {step.config.rpartition("/")[2] for step in row.steps}
        if any("cifar10" in name for name in names) and not self.data:
            return "it needs --data CIFAR"
        return "it needs --mnist MNIST" if any("mnist" in name for name in names) and not self.mnist else ""

    def run(self, name: str, row: Row) -> dict[str, Any]:
        """Run what is left of a row; returns what is written of it. Raises OutOfTimeError, UserError."""
        found: dict[str, Any] = {"title": row.title, "scores": {}, "seconds": {}, "commands": [], "warnings": {}}
        for step in row.steps:
            words = self.words(step)
            command = self.command(step, words)
            log = self.folder / "logs" / f"{name}-{step.setup}.log"
            self.call(command, log)
            found["commands"].append(self.shown(command))
            if step.sweep:
                folder = self.sweep_folder(step, words)
                found["sweep"] = list(csv.DictReader((folder / "table.csv").read_text(encoding="utf-8").splitlines()))
                with contextlib.suppress(FileNotFoundError):  # a picture that could not be drawn was warned of
                    shutil.copyfile(folder / "scores.png", picture_of(self.out, name))
                continue
            p = load_config(words[1], words[3], words[4:])
            stage = SETUPS[step.setup].stage
            record = read_record(Path(p[f"{stage}_dir"]))
            found["seconds"][step.setup] = record.get("seconds")
            found["scores"] |= {name: round(record["result"][name], 6) for name in step.recorded}
            found["warnings"][step.setup] = warnings_of(log)
            if step.scores:
                found["scores"] |= self.scores(step, words)
        return found | {"overrides": self.overrides, "machine": common.machine()}

    def words(self, step: Step) -> list[str]:
        """The command line of a step after its script."""
        files = ["--config_env", str(self.env), "--config_exp", str(common.ROOT / "configs" / f"{step.config}.yml")]
        roots = {"train": "train", "val": "test"} if "cifar10" in step.config else {}
        data = [f"{split}_db_kwargs.root={self.data / name}" for split, name in roots.items()]
        return [*files, *data, *step.words, *words_of(SETUPS[step.setup].stage, self.overrides)]

    def command(self, step: Step, words: list[str]) -> list[str]:
        """The program of a step with its command line."""
        if step.sweep:
            return [sys.executable, "sweep.py", step.setup, *words, "--name", step.sweep]
        return [sys.executable, *SETUPS[step.setup].script.split(), *words]

    def shown(self, command: list[str]) -> str:
        """A command as one would type it, with words for this machine's folders."""
        text = quoted(["python", *command[1:]]).replace(f"{common.ROOT}/", "")
        for word, path in {"RUNS": self.folder, "CIFAR": self.data, "MNIST": self.mnist}.items():
            text = text.replace(str(path), word) if path else text
        return text

    def call(self, command: list[str], log: Path) -> None:
        """Run a program to its end, or until the minutes are over; what it says goes to the log."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write(f"$ {quoted(command)}\n".encode())
            file.flush()
            # A session of its own: Ctrl-C reaches it once, as `terminate`; twice would end it without a checkpoint.
            process = subprocess.Popen(
                command, cwd=common.ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                code = process.wait(None if self.end is None else max(0.0, self.end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.terminate()
                code = process.wait()
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if code in STOPPED:
            raise OutOfTimeError
        if code:
            raise UserError(f"{quoted(command[1:])} failed; what it said is in {log}")

    def scores(self, step: Step, words: list[str]) -> dict[str, float]:
        """What eval.py says, by the names of the row."""
        wanted = {place.partition(".")[0] for place in step.scores.values()}
        more = [option for name, option in (("kmeans", "--kmeans"), ("knn_acc", "--knn")) if name in wanted]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "scores.json"
            self.call(
                [sys.executable, "eval.py", *words, *more, "--json", str(path)], self.folder / "logs" / "eval.log"
            )
            given = json.loads(path.read_text(encoding="utf-8"))
        found = {}
        for name, place in step.scores.items():
            value: Any = given
            for part in place.split("."):
                value = value[part]
            found[name] = round(float(value), 6)
        return found

    def sweep_folder(self, step: Step, words: list[str]) -> Path:
        """Where sweep.py left table and pictures."""
        plain = [word for word in words[4:] if "," not in word.partition("=")[2] or "{" in word]
        p = load_config(words[1], words[3], plain)
        folder = Path(p[f"{SETUPS[step.setup].stage}_dir"])
        while folder.name != SETUPS[step.setup].stage:
            folder = folder.parent
        return folder.parent / "sweeps" / step.sweep


def picture_of(out: Path, row: str) -> Path:
    """Where the picture of a sweep is kept, next to the results."""
    return out.with_name(f"{row}.png")


def warnings_of(log: Path) -> list[str]:
    """What a program warned of by its log, but that it was stopped; warnings that differ in numbers only are one."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    found: dict[str, str] = {}
    for line in lines:
        if line.startswith("warning: ") and not line.startswith(STOPPED_BY):
            found.setdefault(re.sub(r"[\d.,]+", "", line), line.removeprefix("warning: "))
    return list(found.values())


def read_results(path: Path) -> dict[str, Any]:
    """The rows that are there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": {}}


def chosen(beginnings: Sequence[str] | None) -> list[str]:
    """The rows whose names begin so, in their order; all without beginnings."""
    return [name for name in ROWS if name.startswith(tuple(beginnings or [""]))]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = cli.base_parser(__doc__)
    parser.add_argument("--list", action="store_true", help="list the rows, their minutes and whether they are there")
    parser.add_argument(
        "--only", action="append", metavar="ROW", help="only rows that begin so; may be given several times"
    )
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="stop after so many minutes; the same command goes on"
    )
    parser.add_argument("--data", type=Path, metavar="CIFAR", help="holds train/<class> and test/<class>")
    parser.add_argument("--mnist", type=Path, metavar="MNIST", help="holds MNIST's files")
    parser.add_argument("--folder", type=Path, default=Path("results/ablations"), metavar="DIR", help="keeps the runs")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "ablations.json", metavar="FILE")
    args = parser.parse_intermixed_args(argv)
    done = read_results(args.out)
    if args.list:
        for name, row in ROWS.items():
            print(f"{name:28} {'there' if name in done['rows'] else f'about {row.minutes} minutes'}")
        return 0
    for name in ("folder", "data", "mnist"):
        given = getattr(args, name)
        setattr(args, name, given.resolve() if given else None)
    if unknown := [word for word in args.only or () if not chosen([word])]:
        raise ConfigError(f"no row begins with {unknown[0]}; --list lists them")
    bench = Bench(args)
    for name in chosen(args.only):
        if name in done["rows"]:
            print(f"{name} is there; to run it again, delete it in {args.out} and its runs in {args.folder}")
            continue
        if lack := bench.can_run(ROWS[name]):
            if args.only:
                raise ConfigError(f"{name} cannot run: {lack}")
            print(f"{name}: left out, {lack}")
            continue
        print(f"{name}, about {ROWS[name].minutes} minutes", flush=True)
        try:
            found = bench.run(name, ROWS[name])
        except OutOfTimeError:
            print(f"{name} is not finished; the same command goes on from here")
            return 0
        done = read_results(args.out)  # rows may have come or gone in the meantime
        done["rows"][name] = found
        common.write_result(args.out, done)
        print(json.dumps(found.get("sweep") or found["scores"]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
