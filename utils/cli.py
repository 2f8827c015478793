"""The command line that all stage scripts share."""

import argparse
import contextlib
import difflib
import errno
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from easydict import EasyDict

from system import distributed, processes, signals
from system.console import paint
from system.errors import ConfigError, UserError, out_of_memory
from system.paths import expand_path
from system.streams import prepare_streams, put, silence
from system.text import WORD, one_line, shown
from utils import schema
from utils.bases import COMMAND_LINE
from utils.config import check_used, load_config
from utils.setups import SETUPS

# What may be wrong with a user's path or disk, where the system knows it; a missing file may be this program's own.
_NAMES = "EACCES EPERM EROFS ENAMETOOLONG ELOOP ENOTDIR EISDIR EINVAL ENOSPC EDQUOT EIO ESTALE"
OF_USERS = {getattr(errno, name) for name in _NAMES.split(" ") if hasattr(errno, name)}


def positive(text: str) -> int:
    """A whole number above 0 of the command line."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number above 0")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1 of the command line."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a number from 0 to 1")
    return value


def share_or_auto(text: str) -> float | str:
    """`auto`, or a number from 0 to below 1, of the command line."""
    if text == "auto":
        return text
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{shown(text)} is neither auto nor a number from 0 to below 1")


def minutes(text: str) -> float:
    """A number of minutes of the command line."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{shown(text)} is not a number of minutes above 0")


def path(text: str) -> str:
    """A path of the command line, `~` and variables in it replaced."""
    try:
        return expand_path(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class Parser(argparse.ArgumentParser):
    """The parser of every script, whose description is its docstring.

    Options are known by `--num-clusters` as by `--num_clusters`; all words after `--` are plain ones; an unknown option
    is named with the nearest known one, in one sentence, and exit code 2.
    """

    def __init__(self, doc: str | None) -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        self._plain: dict[str, str] = {}

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command line, plain words after options only; ends the program when it is wrong."""
        return self._parse(super().parse_args, args, namespace)

    def parse_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command line, plain words anywhere among options; ends the program when it is wrong."""
        return self._parse(super().parse_intermixed_args, args, namespace)

    def _parse(self, parse: Callable[[list[str], Any], Any], args: Sequence[str] | None, namespace: Any) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        # What argparse makes of `--` differs from version to version: such words pass it as numbers in disguise.
        self._plain = {f"\0{number}": word for number, word in enumerate(given[end + 1 :])}
        parsed = parse([*map(self._known, given[:end]), *self._plain], namespace)
        for name, value in vars(parsed).items():
            if isinstance(value, list):
                setattr(parsed, name, [self._plain.get(word, word) for word in value])
            elif isinstance(value, str):
                setattr(parsed, name, self._plain.get(value, value))
        return parsed

    def _known(self, word: str) -> str:
        """A word as argparse knows it; ends the program for an unknown option."""
        options = self._option_string_actions
        name, sign, value = word.partition("=")
        if not word.startswith("-") or len(word) == 1 or " " in name or word[1].isdecimal():
            return word
        if word.startswith("--"):
            name = name.replace("-", "_").replace("__", "--", 1)
        if not any(option == name or (option.startswith(name) and name.startswith("--")) for option in options):
            hint = "a name that begins with - goes after --"
            if word.startswith("--"):
                hint = self._hint(name[:WORD], options)
            self.error(f"unknown option {shown(word.partition('=')[0])}{hint and f'; {hint}'}")
        return name + sign + value

    def _hint(self, name: str, options: Iterable[str]) -> str:
        key = name.removeprefix("--").partition(".")[0].lower()
        if key in schema.Config.model_fields and any(action.dest == "overrides" for action in self._actions):
            return f"keys of the config are given without dashes, as in {key}{name.removeprefix('--')[len(key) :]}=…"
        long = [option.removeprefix("--") for option in options if option.startswith("--")]
        near = difflib.get_close_matches(name.removeprefix("--"), long, n=1)
        return f"did you mean --{near[0]}?" if near else ""

    def error(self, message: str) -> NoReturn:
        """Say in one sentence what is wrong with the command line, and end the program with exit code 2."""
        for placeholder, word in self._plain.items():
            message = message.replace(placeholder, word)
        raise SystemExit(_complain(f"{message} (see {self.prog} --help)", ConfigError.exit_code))

    def _print_message(self, message: str, file: Any = None) -> None:
        put(message, file or sys.stderr)


def base_parser(doc: str, **first: str) -> Parser:
    """A parser for any number of `key=value` words, after a `first` one, by its name and help, that is not such a word.

    `doc` is the script's docstring.
    """
    made = Parser(doc)
    for name, help in first.items():
        made.add_argument(name, metavar=name.upper(), help=help)
    made.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="change keys of the config, dotted for nested ones: epochs=50 optimizer_kwargs.lr=0.001",
    )
    return made


def parser(doc: str, **first: str) -> Parser:
    """A parser that also takes `--config_env` and `--config_exp`."""
    made = base_parser(doc, **first)
    made.add_argument(
        "--config_env", type=path, metavar="FILE", help="where results and data are (default: configs/env.yml)"
    )
    made.add_argument("--config_exp", type=path, metavar="FILE", required=True, help="the experiment's YAML")
    return made


def training_parser(doc: str) -> Parser:
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


def configure(made: Parser, argv: Sequence[str] | None, *setups: str) -> tuple[EasyDict, argparse.Namespace]:
    """Parse the command line and load its config, whose `setup` must be one of `setups`; raises ConfigError."""
    args = made.parse_intermixed_args(argv)
    config = load_config(args.config_env, args.config_exp, args.overrides)
    if config.setup not in setups:
        raise ConfigError(
            f"{args.config_exp} is a config of {SETUPS[config.setup].script} (setup: {config.setup}); this script "
            f"takes setup: {' or '.join(setups)}"
        )
    check_used(config, (word.partition("=")[0] for word in args.overrides), lambda key: COMMAND_LINE)
    return config, args


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Call a script's main; what a user can fix becomes one sentence on stderr and an exit code.

    A signal ends it with 128 plus its number, whatever main makes of it. Raises SystemExit as main does.
    """
    prepare_streams()
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
    except (RuntimeError, MemoryError) as error:
        full = out_of_memory(error)
        if full:
            return _complain(full, 1)
        if not isinstance(error, RuntimeError) or not distributed.lost_a_rank(error):
            raise
        # What NCCL says may be the cause itself, where all ranks meet it.
        cause = f" ({str(error).splitlines()[0]})" if "NCCL" in str(error) else ""
        return _complain(
            f"another rank has ended, so this one cannot continue; its own message says what ended it{cause}", 1
        )
    except BrokenPipeError:
        silence(sys.stdout)
        return 1
    except OSError as error:
        if error.errno not in OF_USERS or error.filename is None:
            raise
        reason = (error.strerror or str(error)).lower()
        return _complain(f"cannot use {error.filename}: {reason}; check the path, its permissions and the disk", 1)
    except KeyboardInterrupt:
        return 130


def _complain(message: str, code: int) -> int:
    message = one_line(message)
    if distributed.is_first_to_say(message):
        put(f"{paint('error:', 'red', sys.stderr, ['bold'])} {message}\n", sys.stderr)
    return code
