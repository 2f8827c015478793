"""Run a stage with every combination of some values, and compare what came out.

    python sweep.py selflabel --config_exp configs/selflabel/selflabel_digits.yml \\
        confidence_threshold=0.9,0.95,0.99 epochs=50 seed=0,1,2
    python sweep.py scan --config_exp configs/scan/scan_cifar10.yml num_neighbors=5,20 num_heads=1,5
    python sweep.py selflabel --config_exp configs/selflabel/selflabel_digits.yml scan.epochs=25,50 seed=0,1,2
    python sweep.py simclr --config_exp configs/pretext/simclr_digits.yml criterion_kwargs.temperature=0.1,0.5 --jobs 2

Commas separate values. A key that begins with an earlier stage's name is that stage's: it and what follows it then run
too, and seed=… reaches all of them; otherwise the sweep starts from the runs that the config names (pretext_run,
scan_run). Every combination is a run with a run_name of its own; one process per GPU at a time, or --jobs N. The same
command continues an interrupted sweep, finished runs are not repeated, and values may be added. Ends with table.csv,
table.md, scores.png, prototypes.png and confusion_matrices.png in {root_dir}/{data set}/sweeps/NAME.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sweeps import figures, summary
from sweeps.plan import Plan, make_plan
from sweeps.runner import Runner, make_slots, others_in
from system import owned
from system.bounded import map_array
from system.console import say, say_block, warn
from system.errors import ConfigError, UserError
from system.paths import usable
from system.text import quoted, shown
from utils import cli
from utils.schema import RunName
from utils.setups import SETUPS, stage_of, stages_until
from utils.stage import start_of

RESULTS = ("table.csv", "table.md", "scores.png", "prototypes.png", "confusion_matrices.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is left of the sweep; returns the exit code."""
    parser = cli.parser(__doc__, stage="the last stage: simclr, scan, selflabel, or another method")
    parser.add_argument(
        "--pretext_config",
        type=cli.path,
        metavar="FILE",
        help="simclr.py's config (default: of the same data)",
    )
    parser.add_argument(
        "--scan_config",
        type=cli.path,
        metavar="FILE",
        help="scan.py's config (default: of the same data)",
    )
    parser.add_argument("--jobs", type=cli.positive, metavar="N", help="runs at a time (default: one per GPU, or one)")
    parser.add_argument(
        "--name", type=check_name, metavar="NAME", help="name of the results folder (default: made from the overrides)"
    )
    parser.add_argument("--dry_run", action="store_true", help="check all combinations and list them; run nothing")
    args = parser.parse_intermixed_args(argv)
    words = [args.stage, *args.overrides]
    stages = [word for word in words if "=" not in word]
    stage = stage_of(stages[0]) if len(stages) == 1 else None
    if stage is None:
        raise ConfigError(f"the stage must be one of {', '.join(SETUPS)}, not '{shown(' '.join(stages))}'")
    given = {"pretext": args.pretext_config, "scan": args.scan_config}
    if given.get(stage):
        raise ConfigError(f"--{stage}_config is for a stage before the last; the config of {stage} is --config_exp")
    given[stage] = args.config_exp
    plan = make_plan(stage, args.config_env, given, [word for word in words if "=" in word])
    check_neighbors(plan)
    if args.dry_run:
        for job in plan.jobs:
            say(f"{job.stage}/{job.name}: {quoted(job.arguments)}")
        check_folders(plan)
        try:
            check_input(plan)
        except UserError as error:  # it may be made before the sweep is
            warn(str(error))
        return 0
    check_input(plan)
    check_folders(plan)

    folder = plan.settings[0].runs[0].folder().parent.parent / "sweeps" / (args.name or plan.name)
    with usable(folder, "set root_dir"):
        make_ready(folder)
    runner = Runner(make_slots(args.jobs), folder / "logs")
    runner.run(plan.jobs)
    command = quoted(["python", "sweep.py", *(sys.argv[1:] if argv is None else argv)])
    conclude(plan, folder, command)
    if runner.stopped_by:
        name = signal.Signals(runner.stopped_by).name
        warn(f"stopped by {name}; the same command continues from here")
        return 128 + runner.stopped_by
    if runner.failed:
        raise UserError(f"{len(runner.failed)} of {len(plan.jobs)} runs failed; what they said is in {runner.logs}")
    return 0


def make_ready(folder: Path) -> None:
    """Make sure that tables and pictures replace no files of the user's; raises UserError otherwise."""
    told = folder / "table.md"
    if told.is_file() and not told.is_symlink() and "python sweep.py" in told.read_text("utf-8", "replace"):
        owned.adopt(folder, RESULTS)
    owned.require_own(folder, RESULTS, "move it away, or give this sweep a --name of its own")


def check_name(text: str) -> str:
    """A name that a folder of results may have."""
    try:
        return TypeAdapter(RunName).validate_python(text)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise argparse.ArgumentTypeError(f"{text!r} cannot name a folder: {reason}") from error


def check_folders(plan: Plan) -> None:
    """Raise ConfigError when a folder of a run holds one of another config: words alone name a sweep's runs."""
    for job in plan.jobs:
        if differing := others_in(job):
            raise ConfigError(
                f"{job.folder()} holds a run of another config, of other {', '.join(differing)}; move it away, or add "
                f"the word {differing[0]}=…, which the names of the new runs then hold"
            )


def check_neighbors(plan: Plan) -> None:
    """Raise ConfigError where SCAN asks for more neighbors than the pretext run has, or will have, mined."""
    for job in plan.jobs:
        p = job.config()
        if p.setup != "scan":
            continue
        path = Path(p.topk_neighbors_train_path)
        if job.before:
            earlier = job.before.config()
            num = earlier.num_mined_train or SETUPS[earlier.setup].num_mined
        elif path.exists():
            num = map_array(path).shape[1] - 1
        else:
            continue  # whether it may be missing is another matter
        if p.num_neighbors > num:
            raise ConfigError(
                f"num_neighbors is {p.num_neighbors}, but only {num} of each image are mined by the pretext run that "
                f"{job.stage}/{job.name} starts from; ask for at most {num}, or mine more with num_mined_train"
            )


def check_input(plan: Plan) -> None:
    """Raise UserError when the run that a sweep starts from is not there."""
    for job in plan.jobs:
        p = job.config()
        before = start_of(p)
        if job.before is None and before:
            model = Path(p[f"{before}_model"])
            if not model.exists():
                itself = f", or let the sweep run it: {before}.seed=0" if before in stages_until(plan.stage) else ""
                raise UserError(f"the sweep starts from {model}, which is missing; run that stage first{itself}")


def conclude(plan: Plan, folder: Path, command: str) -> None:
    """Write and say what is known so far."""
    table = summary.collect(plan)
    if not any(row["num_runs"] for row in table):
        return
    summary.write_csv(folder / "table.csv", table)
    summary.write_markdown(folder / "table.md", plan, table, command)
    drawn = [folder / "scores.png"] if figures.draw_scores(folder / "scores.png", table) else []
    if plan.stage != "pretext" and SETUPS[plan.settings[0].runs[0].config().setup].has_model:
        drawn += figures.draw_clusters(folder, plan)
    say_block(summary.markdown(table).rstrip())
    for path in (folder / "table.csv", folder / "table.md", *drawn):
        say(str(path))


def run() -> int:
    """The command that an installation gives."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(run())
