"""Sort new images into the clusters of a trained model.

    python predict.py --model results/photos new_photos > clusters.csv
    python predict.py --model results/digits/scan a.png b.png --top_k 3
    python predict.py --model results/photos/runs/selflabel/model.pth.tar new_photos --output clusters.parquet
    find /data -name '*.jpg' | python predict.py --model results/photos - --output clusters.csv
    python predict.py --model results/photos new_photos --output clusters.csv --embeddings features.npy
    python predict.py --model results/photos new_photos --link_to sorted
    python predict.py --model results/photos new_photos --features new.npy      # for clusters of features from a file
    python predict.py --model results/photos new_photos --min_confidence 0.8         # names, after label.py
    python predict.py --model results/photos new_photos --clusters                   # clusters, not names
    torchrun --nproc_per_node 8 predict.py --model results/photos new_photos --output clusters.csv
    python predict.py --model results/photos --export photos.onnx

The model is a run folder, the output folder of cluster.py, or a model file; the config that a run leaves next to its
model says how images are read. Images are files, directories (read recursively), or `-` for a list of paths on the
standard input, one per line or each ended by NUL (find -print0). Columns: path, cluster, confidence, and with --top_k K
also cluster_2, confidence_2, … Images that belong in no cluster (cluster.py --leave_out) are in cluster -1, with
confidence 0; the next columns name the clusters that they would be in. Where label.py has trained a classifier of named
classes, a label stands in the place of the cluster; --clusters gives the cluster.
A model of features from a file (cluster.py --features FILE) needs those of the new images, made in the same way: a .npy
with a row per image in the order of IMAGES, or a .parquet with the column path, relative to the folder IMAGES; without
IMAGES its paths stay as they are.
Images are read in blocks, so that a million of them need no more memory than a few thousand. Files that cannot be read
are skipped, named on the standard error, and counted. --export writes the model for programs without PyTorch; what its
images need is noted inside.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from clustering.prediction import Block, predict_files, predict_rows
from data.files.unseen import split_blocks
from data.given import FeatureTable
from report.outputs import TABLES, Columns
from report.sorting import Sorter, cluster_folders, copy_file, folder_names, link_file
from report.targets import BlockWriter, Targets
from system.console import say, warn
from system.distributed import on_main
from system.errors import ConfigError
from system.files import write_file
from system.paths import expand_path
from system.runtime import Runtime
from system.sharing import lead
from system.streams import standard_output
from training.folder import CONFIG
from utils import cli, clusters, saved
from utils.common_config import get_embedder
from utils.exported import export_model


def main(argv: Sequence[str] | None = None) -> int:
    """Predict; returns the exit code."""
    args = parse(argv)
    # What the standard output holds is the table alone, when it goes there.
    messages = contextlib.redirect_stdout(sys.stderr) if args.output == "-" else contextlib.nullcontext()
    stdout = sys.stdout
    with messages:
        file = saved.find_model(Path(args.model), classifier=not args.clusters)
        p = saved.load_model_config(file, args.config_env, args.config_exp)
        if args.top_k > p.num_classes:
            raise ConfigError(
                f"--top_k is {args.top_k}, but the model has {p.num_classes} clusters; give at most that many"
            )
        if args.min_confidence and not p.class_names:
            named = saved.find_model(Path(args.model), classifier=True) != file
            advice = "leave out --clusters" if named else "name its clusters with label.py"
            raise ConfigError(f"--min_confidence goes with names, and {file} has none; {advice}")
        p.eval_batch_size = args.batch_size or p.eval_batch_size
        runtime = Runtime.start(args.device, p.precision, deterministic=p.deterministic)
        model, head = clusters.load_for_prediction(p, file, runtime)
        reading = saved.reading(p, file)
        if args.images or args.features:
            saved.check_input(p, args.features)
        targets = find_targets(args, file)
        if args.export:
            on_main(lambda: export_model(args.export, p, file, reading))
            say(f"model: {args.export}")
            if model.leave_out:
                warn(f"{args.export} puts every image in a cluster; only predict.py leaves out those far from all")
        if not (args.images or args.features):
            return 0

        def write(share: Callable[[Iterable[list[str]]], Iterator[Block]]) -> tuple[int, int]:
            """What rank 0 does with the predictions of all ranks; returns the numbers of images and of others."""
            columns = Columns(args.top_k, p.class_names, args.min_confidence)
            sorter = make_sorter(args, file, folder_names(p.class_names) or cluster_folders(p.num_classes))
            writer = BlockWriter(kind_of(args.output), columns, args.embeddings, model.backbone_dim, sorter)
            if args.features:
                given = FeatureTable(Path(args.features), model.backbone_dim)
                blocks = predict_rows(model, head, *saved.match_features(given, args.images, targets.inputs()))
            else:
                blocks = share(split_blocks(targets.inputs(), reading))
            if args.output == "-":
                with standard_output(stdout) as table:
                    writer.write(blocks, table)
            else:
                write_file(args.output, partial(writer.write, blocks), record=False)
                say(f"clusters: {args.output}")
            return writer.num_images, writer.num_unreadable

        embedder = get_embedder(p, runtime)
        work = partial(predict_files, model, head, reading=reading, embedder=embedder)
        num_images, num_unreadable = lead(write, work)
        skipped = f"; {num_unreadable:,} file{'' if num_unreadable == 1 else 's'} skipped" if num_unreadable else ""
        say(f"{num_images:,} image{'' if num_images == 1 else 's'}{skipped}")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; raises ConfigError for what does not go together."""
    parser = cli.Parser(__doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGES", help="files, directories, or - for a list of paths")
    parser.add_argument(
        "--model",
        type=cli.path,
        required=True,
        metavar="RUN_OR_FILE",
        help="output folder of cluster.py, a run, or a file",
    )
    parser.add_argument(
        "--output", type=cli.path, default="-", metavar="FILE", help=".csv or .parquet (default: CSV on stdout)"
    )
    parser.add_argument("--top_k", type=cli.positive, default=1, metavar="K", help="give the K most probable clusters")
    parser.add_argument(
        "--embeddings",
        type=cli.path,
        metavar="FILE.npy",
        help="also write the backbone's features, a row per CSV row",
    )
    parser.add_argument("--export", type=cli.path, metavar="FILE.onnx", help="write the model as ONNX; needs no IMAGES")
    parser.add_argument(
        "--features",
        type=cli.path,
        metavar="FILE",
        help="features of IMAGES (.npy or .parquet), for a model trained on features from a file",
    )
    parser.add_argument(
        "--min_confidence",
        type=cli.share,
        default=0.0,
        metavar="P",
        help="leave labels below it empty (0 to 1)",
    )
    parser.add_argument("--clusters", action="store_true", help="give clusters even if label.py was run")
    placing = parser.add_mutually_exclusive_group()
    placing.add_argument(
        "--copy_to", type=cli.path, metavar="DIR", help="also copy the images into one folder per cluster"
    )
    placing.add_argument(
        "--link_to", type=cli.path, metavar="DIR", help="also link the images into one folder per cluster"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--batch_size", type=cli.positive, metavar="N", help="images per batch on the device")
    parser.add_argument(
        "--config_exp", type=cli.path, metavar="FILE", help="the model's config, when there is none next to it"
    )
    parser.add_argument("--config_env", type=cli.path, metavar="FILE", help="goes with --config_exp")
    args = parser.parse_intermixed_args(argv)
    args.images = list(map(expand_path, args.images))
    if (args.copy_to or args.link_to) and not args.images:
        raise ConfigError("--copy_to and --link_to need the images; name their folder")
    if kind_of(args.output) not in TABLES:
        raise ConfigError(f"--output is {args.output}, but must end with {' or '.join(TABLES)}, or be -")
    if args.export and not args.export.endswith(".onnx"):
        raise ConfigError(f"--export is {args.export}, but must end with .onnx")
    if not (args.images or args.export or args.features):
        raise ConfigError("no images are given: name files or directories of them, or - for a list on stdin")
    return args


def kind_of(output: str) -> str:
    """The ending of a table's name; the standard output takes CSV."""
    return ".csv" if output == "-" else Path(output).suffix


def find_targets(args: argparse.Namespace, model: Path) -> Targets:
    """What the call writes; raises ConfigError when that is not apart from what it reads."""
    output = args.output if args.output != "-" else None
    given = {"--output": output, "--embeddings": args.embeddings, "--export": args.export}
    option = "--copy_to" if args.copy_to else "--link_to"
    read = [model, model.parent / CONFIG, *([Path(args.features)] if args.features else [])]
    return Targets(given, args.images, read, args.copy_to or args.link_to, option)


def make_sorter(args: argparse.Namespace, model: Path, folders: Sequence[str]) -> Sorter | None:
    """What puts images into one folder a cluster or label, where that is asked for."""
    if not (args.copy_to or args.link_to):
        return None
    place = copy_file if args.copy_to else link_file
    request = {"model": str(model.resolve()), "images": [os.path.realpath(word) for word in args.images]}
    return Sorter(Path(args.copy_to or args.link_to), place, folders, request)


def run() -> int:
    """The command that an installation gives."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(run())
