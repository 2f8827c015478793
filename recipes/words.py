"""What the command line of cluster.py says, and what it may not say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.auto import parse_number_words
from system.errors import ConfigError
from system.paths import expand_path
from utils import cli
from utils.overrides import apply_overrides, split_stage
from utils.schema import RUN_KEYS

TRAINING = ("epochs", "batch_size", "width", "stem", "num_neighbors", "confidence_threshold")
FORBIDDEN = ("root_dir", "db_alias", "num_classes", "setup", "run_name", "train_db_name", "minutes", *RUN_KEYS)


def parse(doc: str, argv: Sequence[str] | None) -> Any:
    """Parse the command line of cluster.py: the first plain word is the folder, the rest are `key=value`.

    Raises ConfigError for words that do not go together.
    """
    parser = _parser(doc)
    made = parser.parse_intermixed_args(argv)
    plain = [made.folder, *made.overrides]
    folders = [word for word in plain if "=" not in word] or plain[:1]
    if len(folders) > 1:
        raise ConfigError(
            f"two folders are given, {folders[0]} and {folders[1]}; give one, or put both into one folder"
        )
    if made.quick and made.minutes:
        raise ConfigError("--quick refines nothing, and --minutes says for how long to refine; leave one of them out")
    plain.remove(folders[0])
    made.folder = expand_path(folders[0])
    made.overrides = plain
    return made


def _parser(doc: str) -> cli.Parser:
    parser = cli.base_parser(doc, folder="the directory of images, read recursively")
    parser.add_argument(
        "--num_clusters",
        type=parse_number_words,
        required=True,
        metavar="K",
        help="how many clusters to find: 10, or 5,8,10-14, or auto or auto:LO-HI to estimate the number",
    )
    parser.add_argument(
        "--output", type=cli.path, metavar="DIR", help="where everything goes (default: results/NAME OF THE FOLDER)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a first look: the smaller embedded network, no refining; fewer epochs from scratch; not with --minutes",
    )
    parser.add_argument(
        "--features",
        default="auto",
        metavar="NAME",
        help="auto, embedded, dinov2, timm/NAME, scratch, or a .npy or .parquet file (default: auto)",
    )
    parser.add_argument(
        "--link_to", type=cli.path, metavar="DIR", help="also link the images into one folder per cluster"
    )
    parser.add_argument(
        "--minutes",
        type=cli.minutes,
        metavar="M",
        help="computing time of all stages together; refining gets what is left, while the validation loss falls; "
        "with 6 or more, also train a network on these images alone, which competes; a larger M later continues",
    )
    parser.add_argument(
        "--leave_out",
        type=cli.share_or_auto,
        metavar="SHARE",
        help="put images whose neighbors are unusually far away into cluster -1: a share, or auto; 0 undoes it",
    )
    flip = parser.add_mutually_exclusive_group()
    flip.add_argument("--no_flip", action="store_true", help="never mirror images: for signs, text, left and right")
    flip.add_argument("--flip", action="store_true", help="mirror images even if left and right seem to matter")
    parser.add_argument("--offline", action="store_true", help="download nothing")
    parser.add_argument("--dry_run", action="store_true", help="write configs and images.png, run nothing")
    return parser


def is_of_training(word: str) -> bool:
    """Whether a `key=value` word says how a network is trained from scratch."""
    return word.startswith(("simclr.", "scan.", "selflabel.")) or word.partition("=")[0] in TRAINING


def take_overwrite(words: Sequence[str]) -> tuple[list[str], bool]:
    """The words without `overwrite`, and its value; raises ConfigError for keys that are cluster.py's own to set."""
    for word in words:
        key = split_stage(word)[1].partition("=")[0]
        if key in FORBIDDEN:
            raise ConfigError(
                f"{key} is set by cluster.py itself; "
                "leave it out (use --output, --num_clusters, --minutes, or the stage scripts with its configs)"
            )
    flag = apply_overrides({}, [word for word in words if word.startswith("overwrite=")]).get("overwrite", False)
    if not isinstance(flag, bool):
        raise ConfigError(f"overwrite is {flag}, but must be true or false")
    return [word for word in words if not word.startswith("overwrite=")], flag


def find_output(root: Path, given: str | None) -> Path:
    """The output folder; raises ConfigError when it is among the images, which its pictures would then join."""
    output = Path(given) if given else Path("results") / (root.resolve().name or "folder")
    if output.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"the output folder {output} is inside the folder of images {root}; give another --output")
    return output.resolve()
