"""What comes before and after every stage's training: the command line, the run's folder, the report.

A stage script is `train` and `step`; `run_stage` calls it.
"""

import importlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from easydict import EasyDict

from data.download import no_downloads
from system.console import say_block, warn
from system.errors import ConfigError
from system.files import nothing_written
from system.paths import expand_path
from system.runtime import Runtime
from system.sections import check, section_of
from training.comparison import Keys, to_plain
from training.run import Run
from training.trial import Trial, TrialOver
from utils import cli, clusters, pretext
from utils.config import require
from utils.images import RunImages
from utils.schema import CARRIED_OUT, DEFAULTS
from utils.setups import SETUPS

KEYS = Keys(CARRIED_OUT, DEFAULTS)

Train = Callable[..., dict[str, Any]]


def fill_options(p: EasyDict, train: Train, source: str) -> None:
    """Check the `method_kwargs` of a config by the parameters of its `train`, and fill in those that it leaves out.

    Raises ConfigError, which names the `source`.
    """
    section = section_of(train, left_out=("p", "run"))
    options = check(section, p.method_kwargs, lambda key: source, "method_kwargs.", owner=p.setup)
    p.method_kwargs = EasyDict(options.model_dump())


def run_stage(setup: str, train: Train, doc: str, argv: Sequence[str] | None = None) -> int:
    """Run the command line of a stage script, whose docstring is `doc`; returns the exit code.

    `train(p, run)` trains what is left of a run and returns its result. Its further parameters are the `method_kwargs`
    that a config may give, which are checked here. A finished run is only reported.
    """
    mines = SETUPS[setup].stage == "pretext"
    parser = cli.training_parser(doc)
    if mines:
        parser.add_argument("--mine_only", action="store_true", help="train nothing; mine with the weights of --model")
        parser.add_argument(
            "--model", type=cli.path, metavar="FILE", help="weights to mine with (default: those in the folder)"
        )
    p, args = cli.configure(parser, argv, setup)
    fill_options(p, train, args.config_exp)
    _check_folder(p, Path(p[f"{SETUPS[setup].stage}_dir"]))
    if mines and args.mine_only and args.dry_run:
        raise ConfigError("--dry_run tries a training, and --mine_only trains nothing; leave one of them out")
    if mines and args.mine_only:
        return pretext.mine_only(p, args.model)
    require(p, *SETUPS[setup].needs, script=SETUPS[setup].script)
    if args.dry_run:
        return dry_run(p, train)
    report = pretext.report if mines else clusters.report
    run = Run.start(*_place(p))
    if run.result is not None:
        return report(p, run.result, again=True)
    run.profile(args.profile)
    result = train(p, run, **p.method_kwargs)
    run.finish(result)
    return report(p, result)


def main_of(setup: str) -> Callable[[Sequence[str] | None], int]:
    """The `main` of the script that runs a setup."""
    return importlib.import_module(SETUPS[setup].module).main


def _check_folder(p: EasyDict, folder: Path) -> None:
    """Raise ConfigError where the pictures in a run's folder would join the images that the next stage reads."""
    for split in ("train", "val"):
        root = p[f"{split}_db_kwargs"].get("root")
        if p[f"{split}_db_name"] == "folder" and not root:
            raise ConfigError(f"{split}_db_name: folder needs its directory: add {split}_db_kwargs.root=PATH")
        if p[f"{split}_db_name"] == "folder" and folder.resolve().is_relative_to(Path(expand_path(root)).resolve()):
            raise ConfigError(
                f"the results would go to {folder}, which is inside the folder of images {root}, and their pictures "
                "would count as images; give another root_dir"
            )


def _place(p: EasyDict) -> tuple[EasyDict, Runtime, str, Path, Keys]:
    """What a run is made of."""
    stage = SETUPS[p.setup].stage
    return p, Runtime.of(p), stage, Path(p[f"{stage}_dir"]), keys_of(p)


def start_of(p: EasyDict) -> str | None:
    """The stage whose model a run begins with, if there is one."""
    return p.starts_from if p.setup == "selflabel" else SETUPS[p.setup].starts_from


def keys_of(p: EasyDict) -> Keys:
    """What is known of the keys of a config, and of the images that it names.

    Epochs may grow where the clock says how long a run takes, unless what its steps do depends on how many there are.
    """
    by_epochs = p.scheduler != "constant" or p.scheduler_kwargs.get("warmup_epochs") or p.setup == "byol"
    growing = ("epochs",) if p.minutes is not None and not by_epochs else ()
    before = start_of(p)
    start = Path(p[f"{before}_model"]) if before else None
    return replace(KEYS, images=RunImages(p), has_model=SETUPS[p.setup].has_model, start=start, growing=growing)


def dry_run(p: EasyDict, train: Train) -> int:
    """Print the resolved config, and try the training for three steps; raises what the run itself would.

    Nothing is written or downloaded: in the place of a data set that would be, images of its shape are made up. Whether
    the run's folder is free for it is not looked at.
    """
    say_block(yaml.safe_dump(to_plain(p), sort_keys=False).rstrip())
    trial = Trial(*_place(p))
    try:
        with no_downloads(), nothing_written():
            train(p, trial, **p.method_kwargs)
    except TrialOver:
        pass
    folder = Path(p.root_dir)
    while not folder.exists():
        folder = folder.parent
    if shutil.disk_usage(folder).free < 3 * trial.num_bytes:
        warn(f"{folder} has too little free space for the checkpoints")
    return 0
