"""Turn named clusters into labels, sorted folders, and a classifier that names new images.

    python label.py results/photos edits.json                       # exported from results/photos/report.html
    python label.py results/photos labels.csv --link_to sorted      # columns path and label suffice
    python predict.py --model results/photos new_photos             # path,label,confidence

OUTPUT is the output folder of cluster.py. Clusters are named, merged and corrected in its report.html, which exports
edits.json and labels.csv. Paths in labels.csv are as in clusters.csv. Images without a row, or with an empty label,
have no label; without a column by_hand every row counts as given by hand.
Writes OUTPUT/labels.csv (path, label, cluster, confidence, by_hand) and trains a classifier of the named classes on the
features of the clustering: logistic regression, whose cross-validated accuracy is given. predict.py --model OUTPUT uses
it from then on; --clusters gives clusters as before.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.classify import find_features, train_classifier
from report import edits
from report.outputs import Sorter, copy_file, folder_names, link_file
from system import owned
from system.console import say, warn
from system.errors import ConfigError, UserError
from system.lock import lock_folder
from system.text import shown
from training.folder import CONFIG, MODEL, RECORD
from utils import cli, saved

CLUSTERS = "clusters.csv"
OTHER = "move it away"


def main(argv: Sequence[str] | None = None) -> int:
    """Label; returns the exit code."""
    args = parse(argv)
    output = Path(args.output)
    model = saved.find_model(output)
    p = saved.load_model_config(model, None, None)
    if args.images:
        p.train_db_kwargs.root = args.images
    clustering = edits.read_clusters(output / CLUSTERS)
    labels = edits.read_labels(Path(args.edits), clustering)
    check(p, clustering, labels, args)

    lock_folder(output, "wait for it")
    owned.require_own(output, [saved.LABELS], OTHER)
    owned.require_own(output / saved.CLASSIFIER, [MODEL, CONFIG, RECORD], OTHER)
    sorter = find_sorter(p, labels, args)
    several = len(labels.classes) > 1
    features = find_features(p, model, clustering.paths, args.device) if several else None

    edits.write_labels(output / saved.LABELS, clustering, labels)
    say_labels(output / saved.LABELS, labels)
    if sorter is not None:
        sort(sorter, p, clustering, labels)
    if features is None:
        removed = saved.remove_classifier(output)
        earlier = "; the one that was there is removed, as it has other classes" if removed else ""
        warn(f"a classifier needs two classes, and there is one; labels.csv is written, no classifier{earlier}")
        return 0
    folder = output / saved.CLASSIFIER
    found = train_classifier(p, model, folder, features, labels.names)
    told = "unknown" if found.accuracy is None else f"{100 * found.accuracy:.1f} %"
    say(f"classifier: {folder / MODEL}; cross-validated accuracy {told}, against the labels as they are")
    say("that tells how well it repeats them: an image that a group holds by mistake has the wrong label here, too")
    say(f"names for new images: python predict.py --model {output} new_images")
    return 0


def parse(argv: Sequence[str] | None) -> Any:
    """Parse the command line; raises ConfigError for a file of another kind."""
    parser = cli.Parser(__doc__)
    parser.add_argument("output", type=cli.path, metavar="OUTPUT", help="the output folder of cluster.py")
    parser.add_argument("edits", type=cli.path, metavar="EDITS", help="edits.json, or labels.csv")
    placing = parser.add_mutually_exclusive_group()
    placing.add_argument("--copy_to", type=cli.path, metavar="DIR", help="copy the images into one folder a label")
    placing.add_argument("--link_to", type=cli.path, metavar="DIR", help="link the images into one folder a label")
    parser.add_argument("--images", type=cli.path, metavar="DIR", help="where the images are, if they were moved")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    args = parser.parse_intermixed_args(argv)
    if Path(args.edits).suffix not in (".json", ".csv"):
        raise ConfigError(f"{args.edits} is neither edits.json nor labels.csv; its name must end with .json or .csv")
    return args


def check(p: Any, clustering: edits.Clustering, labels: edits.Labels, args: Any) -> None:
    """Raise UserError where nothing is named, or a labelled image is gone, before anything is written."""
    if not labels.classes:
        raise UserError(f"{args.edits} gives no image a label; name at least two clusters in report.html")
    root = Path(p.train_db_kwargs.root)
    gone = [
        path for path, name in zip(clustering.paths, labels.names, strict=True) if name and not (root / path).is_file()
    ]
    if gone:
        more = f" and {len(gone) - 1:,} other images are" if len(gone) > 1 else " is"
        raise UserError(
            f"{shown(root / gone[0])}{more} gone; put them back, or give --images DIR if the folder was moved"
        )
    folder = args.copy_to or args.link_to
    for other, what in ((root, "the folder of images"), (Path(args.output), "the output folder")):
        if folder and Path(folder).resolve().is_relative_to(other.resolve()):
            raise ConfigError(f"{folder} is inside {what} {other}; give another")


def say_labels(path: Path, labels: edits.Labels) -> None:
    """Say what was labelled, and what may surprise."""
    counts = Counter(name for name in labels.names if name)
    total, by_hand = sum(counts.values()), sum(labels.by_hand)
    say(f"labels: {path}: {total:,} of {len(labels.names):,} images in {len(counts):,} classes, {by_hand:,} by hand")
    say(", ".join(f"{shown(name, 40)} {count:,}" for name, count in counts.most_common()))
    for name in labels.shared:
        say(f"several clusters are called {shown(name)}; they are one class")
    single = [shown(name) for name, count in counts.items() if count == 1]
    if single:
        warn(f"classes of a single image, which say little: {', '.join(single)}")


def find_sorter(p: Any, labels: edits.Labels, args: Any) -> Sorter | None:
    """What puts images into one folder a label, where that is asked for; raises UserError for a folder in use."""
    folder = args.copy_to or args.link_to
    if not folder:
        return None
    request = {"labels": str(Path(args.output).resolve()), "images": str(Path(p.train_db_kwargs.root).resolve())}
    return Sorter(Path(folder), copy_file if args.copy_to else link_file, folder_names(labels.classes), request)


def sort(sorter: Sorter, p: Any, clustering: edits.Clustering, labels: edits.Labels) -> None:
    """Copy or link the labelled images into one folder a label."""
    root = Path(p.train_db_kwargs.root).resolve()
    rows = [(str(root / path), name) for path, name in zip(clustering.paths, labels.names, strict=True) if name]
    with contextlib.closing(sorter):
        sorter.write([path for path, _ in rows], [labels.classes.index(name) for _, name in rows])
        sorter.finish()
    say(f"sorted: {sorter.folder}")


def run() -> int:
    """The command that an installation gives."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(run())
