"""Sort new images into the clusters of a trained model.

    python predict.py --model results/photos new_photos > clusters.csv
    python predict.py --model results/digits/scan a.png b.png --top_k 3
    python predict.py --model results/photos/runs/selflabel/model.pth.tar new_photos --output clusters.parquet
    find /data -name '*.jpg' | python predict.py --model results/photos - --output clusters.csv
    python predict.py --model results/photos new_photos --output clusters.csv --embeddings features.npy
    python predict.py --model results/photos new_photos --link_to sorted

The model is a run folder, the output folder of cluster.py, or a model file; the config that a run leaves next to its
model says how images are read. Images are files, directories (read recursively), or `-` for a list of paths on the
standard input, one a line or each ended by NUL (find -print0). Columns: path, cluster, confidence, and with --top_k K
also cluster_2, confidence_2, …
Images are read in blocks, so that a million of them need no more memory than a few thousand. Files that cannot be read
are skipped, named on the standard error, and counted.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from clustering.prediction import Prediction, predict
from data.files.unseen import list_inputs, read_blocks
from report.outputs import TABLES, NpyRows, Sorter, copy_file, link_file
from system.console import say, warn
from system.errors import ConfigError, UserError
from system.files import is_own, write_file
from system.paths import expand_path
from system.runtime import Runtime
from system.streams import read_names, standard_input, standard_output
from system.text import shown
from training.folder import CONFIG
from utils import cli, clusters, saved
from utils.common_config import get_embedder


def main(argv: Sequence[str] | None = None) -> int:
    """Predict; returns the exit code."""
    args = parse(argv)
    # What the standard output holds is the table alone, when it goes there.
    messages = contextlib.redirect_stdout(sys.stderr) if args.output == "-" else contextlib.nullcontext()
    stdout = sys.stdout
    with messages:
        model = saved.find_model(Path(args.model))
        p = saved.load_model_config(model, args.config_env, args.config_exp)
        if args.top_k > p.num_classes:
            raise ConfigError(
                f"--top_k is {args.top_k}, but the model has {p.num_classes} clusters; give at most that many"
            )
        runtime = Runtime.start(args.device, p.precision, deterministic=p.deterministic)
        predictor = Predictor(p, model, runtime, args)
        if args.output == "-":
            with standard_output(stdout) as table:
                predictor.run(table)
        else:
            write_file(args.output, predictor.run, record=False)
            say(f"clusters: {args.output}")
        skipped = f"; {predictor.num_bad:,} files skipped" if predictor.num_bad else ""
        say(f"{predictor.num_images:,} images{skipped}")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; raises ConfigError for what does not go together."""
    parser = cli.Parser(__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, directories, or - for a list of paths")
    parser.add_argument(
        "--model", type=cli.path, required=True, metavar="RUN_OR_FILE", help="a run folder or a model file"
    )
    parser.add_argument(
        "--output", type=cli.path, default="-", metavar="FILE", help=".csv or .parquet (default: CSV on stdout)"
    )
    parser.add_argument("--top_k", type=cli.positive, default=1, metavar="K", help="give the K most probable clusters")
    parser.add_argument(
        "--embeddings", type=cli.path, metavar="FILE.npy", help="also write the backbone's features, a row a CSV row"
    )
    placing = parser.add_mutually_exclusive_group()
    placing.add_argument(
        "--copy_to", type=cli.path, metavar="DIR", help="also copy the images into one folder a cluster"
    )
    placing.add_argument(
        "--link_to", type=cli.path, metavar="DIR", help="also link the images into one folder a cluster"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--batch_size", type=cli.positive, metavar="N", help="images per batch on the device")
    parser.add_argument(
        "--config_exp", type=cli.path, metavar="FILE", help="the model's config, when there is none next to it"
    )
    parser.add_argument("--config_env", type=cli.path, metavar="FILE", help="goes with --config_exp")
    args = parser.parse_intermixed_args(argv)
    if args.output != "-" and Path(args.output).suffix not in TABLES:
        raise ConfigError(f"--output is {args.output}, but must end with {' or '.join(TABLES)}, or be -")
    return args


def read_inputs(words: Sequence[str], check: Callable[[str], None] = lambda word: None) -> Iterator[str]:
    """The paths that the command line names; `-` stands for those on the standard input, each of them checked."""
    for word in words:
        if word == "-":
            for name in read_names(standard_input()):
                check(name)
                yield from list_inputs([name])
        else:
            yield from list_inputs([expand_path(word)])


class Targets:
    """What a call writes, and that it is none of what it reads."""

    def __init__(self, args: argparse.Namespace, read: Sequence[Path]) -> None:
        """Raise ConfigError for targets that are equal, however they are spelled, or that are in each other's way."""
        given = {"--output": args.output if args.output != "-" else None, "--embeddings": args.embeddings}
        self.files = {option: os.path.realpath(name) for option, name in given.items() if name}
        self.folder = os.path.realpath(args.copy_to or args.link_to) if args.copy_to or args.link_to else None
        self.option = "--copy_to" if args.copy_to else "--link_to"
        if len(self.files) == 2 and _is_same(*self.files.values()):
            raise ConfigError(f"--output and --embeddings are both {args.output}; give each a file of its own")
        for option, path in self.files.items():
            if self.folder and Path(path).is_relative_to(self.folder):
                raise ConfigError(f"{option} is in the folder of {self.option}, which only holds images; move it out")
            if is_own(Path(path)):
                raise ConfigError(f"{option} is {given[option]}, a file of a run; give another name")
            for other in read:
                if _is_same(path, other):
                    raise ConfigError(f"{option} is {given[option]}, which is read as the model; give another name")
        for word in args.images:
            self._check_folder(word)
        self._numbers = {_identity(path): option for option, path in self.files.items() if Path(path).exists()}

    def _check_folder(self, word: str) -> None:
        """Raise ConfigError when what is sorted would be among the images and count as more of them."""
        if self.folder and word != "-" and Path(word).is_dir():
            root = os.path.realpath(word)
            if Path(self.folder).is_relative_to(root):
                raise ConfigError(
                    f"the folder of {self.option}, {self.folder}, is inside the folder of images {word}; give another"
                )

    def check_inputs(self, words: Sequence[str]) -> Iterator[str]:
        """The images that the words name; raises ConfigError when one of them is a file that will be written."""
        for path in read_inputs(words, self._check_folder):
            if self._numbers:
                with contextlib.suppress(OSError):
                    option = self._numbers.get(_identity(path))
                    if option:
                        raise ConfigError(f"{option} is {path}, which is one of the images; give another name")
            yield path


def _identity(path: str | Path) -> tuple[int, int]:
    found = Path(path).stat()
    return found.st_dev, found.st_ino


def _is_same(one: str | Path, other: str | Path) -> bool:
    """Whether two paths lead to one file, which need not be there yet."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    return Path(one).exists() and Path(other).exists() and Path(one).samefile(other)


class Predictor:
    """A model and the places where its predictions go."""

    def __init__(self, p: Any, model: Path, runtime: Runtime, args: argparse.Namespace) -> None:
        self.args = args
        p.eval_batch_size = args.batch_size or p.eval_batch_size
        self.embedder = get_embedder(p, runtime)
        self.model, self.head = clusters.load_clustering(p, model)
        self.reading = saved.reading(p, model)
        self.num_images = self.num_bad = 0
        self.targets = Targets(args, [model, model.parent / CONFIG])
        self.sorter: Sorter | None = None
        request = {"model": str(model.resolve()), "images": [os.path.realpath(word) for word in args.images]}
        for folder, place in ((args.copy_to, copy_file), (args.link_to, link_file)):
            if folder:
                self.sorter = Sorter(Path(folder), place, p.num_classes, request)

    def run(self, file: BinaryIO) -> None:
        """Write the table to an open file, and the features to theirs when they are asked for."""
        kind = ".csv" if self.args.output == "-" else Path(self.args.output).suffix
        table = TABLES[kind](file, self.args.top_k)

        def write_all(features: BinaryIO | None) -> None:
            rows = NpyRows(features, self.model.backbone_dim) if features else None
            for paths, found in self.predictions():
                table.write(paths, found)
                if rows:
                    rows.write(found.features.float().cpu().numpy())
                if self.sorter:
                    self.sorter.write(paths, found.probabilities.argmax(1).tolist())
            table.close()
            if rows:
                rows.close()
            if self.sorter:
                self.sorter.finish()

        with contextlib.closing(self.sorter) if self.sorter else contextlib.nullcontext():
            if self.args.embeddings:
                write_file(self.args.embeddings, write_all, record=False)
                say(f"features: {self.args.embeddings}")
            else:
                write_all(None)

    def predictions(self) -> Iterator[tuple[list[str], Prediction]]:
        """Paths and predictions, block by block; unreadable files are named and counted.

        Raises UserError when none can be read.
        """
        inputs = self.targets.check_inputs(self.args.images)
        for dataset, paths, bad in read_blocks(inputs, self.reading):
            for path, reason in bad.items():
                warn(f"skipped '{shown(path)}': {reason}")
            self.num_bad += len(bad)
            if dataset is not None:
                self.num_images += len(paths)
                yield paths, predict(self.model, self.head, dataset, self.embedder)
        if self.num_images == 0:
            what = f"none of the {self.num_bad:,} files can be read" if self.num_bad else "no images are given"
            raise UserError(f"{what}; IMAGES are image files, directories of them, or - for a list on stdin")


def run() -> int:
    """The command that an installation gives."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(run())
