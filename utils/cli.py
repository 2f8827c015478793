"""The command line that all stage scripts share."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import torch
from easydict import EasyDict

from system import distributed, processes, signals
from system.console import paint
from system.errors import ConfigError, UserError
from utils.config import load_config


def positive(text: str) -> int:
    """A whole number above 0 of the command line."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def base_parser(doc: str, **first: str) -> argparse.ArgumentParser:
    """A parser for any number of `key=value` words, after a `first` one, by its name and help, that is no such word.

    `doc` is the script's docstring.
    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, help in first.items():
        made.add_argument(name, metavar=name.upper(), help=help)
    made.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="change keys of the config, dotted for nested ones: epochs=50 optimizer_kwargs.lr=0.001",
    )
    return made


def parser(doc: str, **first: str) -> argparse.ArgumentParser:
    """A parser that also takes `--config_env` and `--config_exp`."""
    made = base_parser(doc, **first)
    made.add_argument("--config_env", metavar="FILE", help="where results and data lie (default: configs/env.yml)")
    made.add_argument("--config_exp", metavar="FILE", required=True, help="the experiment's YAML")
    return made


def training_parser(doc: str) -> argparse.ArgumentParser:
    """The parser of a stage that trains."""
    made = parser(doc)
    made.add_argument(
        "--dry_run",
        action="store_true",
        help="check everything, print config, sizes and estimates; train nothing",
    )
    made.add_argument(
        "--profile",
        type=positive,
        default=0,
        metavar="N",
        help="write a torch profiler trace of N steps, then stop",
    )
    return made


def configure(
    made: argparse.ArgumentParser, argv: Sequence[str] | None, *setups: str
) -> tuple[EasyDict, argparse.Namespace]:
    """Parse the command line and load its config, whose `setup` must be one of `setups`; raises ConfigError."""
    args = made.parse_intermixed_args(argv)
    config = load_config(args.config_env, args.config_exp, args.overrides)
    if config.setup not in setups:
        raise ConfigError(
            f"{args.config_exp} is a config of {config.setup}.py (setup: {config.setup}); this script takes setup: "
            f"{' or '.join(setups)}"
        )
    return config, args


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Call a script's main; what a user can mend becomes one sentence on stderr and an exit code.

    A signal ends it with 128 plus its number, whatever main makes of it. Raises SystemExit as main does.
    """
    signals.catch()  # a run that trains has a handler of its own
    processes.end_with_launcher()
    try:
        return signals.exit_code(_run(main, argv))
    finally:
        distributed.stop()
        signals.catch(signals.leave)


def _run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    try:
        return main(argv)
    except UserError as error:
        return _complain(str(error), error.exit_code)
    except torch.OutOfMemoryError as error:
        return _complain(f"the device's memory is full ({str(error).splitlines()[0]}); use a smaller batch_size", 1)
    except RuntimeError as error:
        if not distributed.lost_a_rank(error):
            raise
        return _complain("another rank has ended, so this one cannot go on; what ended it stands in its own message", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _complain(message: str, code: int) -> int:
    if distributed.is_first_to_say(message):
        print(paint("error:", "red", sys.stderr, ["bold"]), message, file=sys.stderr)
    return code
