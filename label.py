"""Turn named clusters into labels, sorted folders, and a classifier that names new images.

    python label.py results/photos edits.json                       # exported from results/photos/report.html
    python label.py results/photos labels.csv --link_to sorted      # columns path and label suffice
    python label.py results/photos edits.json --export coco         # or fiftyone, labelstudio, imagefolder
    python predict.py --model results/photos new_photos             # path,label,confidence

OUTPUT is the output folder of cluster.py. Clusters are named, merged and corrected in its report.html, which exports
edits.json and labels.csv. Paths in labels.csv are as in clusters.csv. Images without a row, or with an empty label,
have no label; without a column by_hand every row counts as given by hand.
Writes OUTPUT/labels.csv (path, label, cluster, confidence, by_hand) and trains a classifier of the named classes on the
features of the clustering: logistic regression, whose cross-validated accuracy is given. predict.py --model OUTPUT uses
it from then on; --clusters gives clusters as before.
OUTPUT/report.html then shows the labels as they stand, and first the images of which the classifier is unsure: correct
them, export edits.json again, and so on. --copy_to, --link_to and --export imagefolder need a new folder each time.
Unlabeled images stay in their cluster; if the cluster has a name, they move to a new group without one.
Where the clustering left images out (--leave_out), predict.py does so with new ones, until one of those has a name.
--finetune also trains the network with the labels (methods/supervised.py), which takes far longer; the same command
continues it. A fifth of the labeled images is held out of it and of logistic regression, and the better one is kept;
what report.html doubts is by logistic regression in any case, and a fine-tuned network leaves no new image out.
--export writes the labels for another tool into the folder OUTPUT-FORMAT, next to OUTPUT, and says how to import them;
the images stay where they are, but for imagefolder, which copies them into one folder per label.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.classify import find_features, look_again, train_classifier
from recipes.finetune import check_ready, finetune
from recipes.labeling import Labeling, Places, check, find_places, find_sorter, require_own, say_labels, sort
from report import edits, exports
from report.round import write_round
from report.sorting import Sorter
from system.console import say, warn
from system.errors import ConfigError
from system.lock import lock_folder
from system.paths import usable
from training.folder import MODEL
from utils import cli, saved

CLUSTERS = "clusters.csv"


def main(argv: Sequence[str] | None = None) -> int:
    """Label; returns the exit code."""
    args = parse(argv)
    places = find_places(args)
    output = Path(args.output)
    if output.is_dir():
        with usable(output, "make it writable"):
            lock_folder(output, "label a copy of it")  # before anything is read that cluster.py may write
    model = saved.find_model(output)
    p = saved.load_model_config(model, None, None)
    if args.images:
        p.train_db_kwargs.root = args.images
    clustering = edits.read_clusters(output / CLUSTERS)
    path = Path(args.edits)
    labels = edits.read_labels(path, clustering)
    task = Labeling(output, Path(p.train_db_kwargs.root), clustering, labels)
    check(task, places, args.edits)
    if args.finetune:
        check_ready(p, output, labels)

    require_own(task, places)
    sorter = find_sorter(task, places)
    several = len(labels.classes) > 1
    features = find_features(p, model, clustering.paths, args.device) if several else None

    edits.write_labels(output / saved.LABELS, clustering, labels)
    say_labels(output / saved.LABELS, labels)
    begun = edits.load_edits(path, clustering) if path.suffix == ".json" else edits.to_edits(clustering, labels)
    page = output / "report.html"
    if features is None:
        removed = saved.remove_classifier(output)
        earlier = "; the one that was there is removed, as it has other classes" if removed else ""
        warn(f"a classifier needs two classes, and there is one; labels.csv is written, no classifier{earlier}")
        write_round(page, clustering, begun, labels.classes)
        hand_out(task, places, sorter)
        return 0
    folder = output / saved.CLASSIFIER
    tuned = finetune(p, model, task, features, args.device) if args.finetune else None
    found = train_classifier(p, model, folder, features, labels.names, tuned)
    told = "unknown" if found.accuracy is None else f"{100 * found.accuracy:.1f} %"
    say(f"classifier: {folder / MODEL}")
    if tuned:
        say(tuned.words)
    elif (folder / saved.FINETUNED).is_dir():
        say(f"{folder / saved.FINETUNED}, of an earlier --finetune, stays; only that uses it, with the same labels")
    say(f"logistic regression, cross-validated: accuracy {told}, against the labels as they are")
    say("this is how well it repeats your labels; an image in the wrong group counts with its wrong label")
    say(f"names for new images: python predict.py --model {output} new_images")
    write_round(page, clustering, begun, labels.classes, *look_again(found, features, labels.names))
    hand_out(task, places, sorter)
    return 0


def hand_out(task: Labeling, places: Places, sorter: Sorter | None) -> None:
    """Put the images and labels where the command line says: last, so that the same command continues until then."""
    if sorter is not None:
        sort(sorter, task)
    if places.exported:
        exports.export(places.kind, places.exported, task.images, task.clustering, task.labels)


def parse(argv: Sequence[str] | None) -> Any:
    """Parse the command line; raises ConfigError for a file of another kind."""
    parser = cli.Parser(__doc__)
    parser.add_argument("output", type=cli.path, metavar="OUTPUT", help="the output folder of cluster.py")
    parser.add_argument("edits", type=cli.path, metavar="EDITS", help="edits.json, or labels.csv")
    placing = parser.add_mutually_exclusive_group()
    placing.add_argument("--copy_to", type=cli.path, metavar="DIR", help="copy the images into one folder per label")
    placing.add_argument("--link_to", type=cli.path, metavar="DIR", help="link the images into one folder per label")
    parser.add_argument("--export", choices=exports.CHOICES, default="", help="write what another tool imports")
    parser.add_argument(
        "--export_to", type=cli.path, metavar="DIR", help="where the export goes (default: OUTPUT-FORMAT)"
    )
    parser.add_argument(
        "--finetune", action="store_true", help="also train the network with the labels, and keep the better classifier"
    )
    parser.add_argument("--images", type=cli.path, metavar="DIR", help="where the images are, if they were moved")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    args = parser.parse_intermixed_args(argv)
    if Path(args.edits).suffix not in (".json", ".csv"):
        raise ConfigError(f"{args.edits} is neither edits.json nor labels.csv; its name must end with .json or .csv")
    return args


def run() -> int:
    """The command that an installation gives."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(run())
