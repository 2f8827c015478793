"""How good do labels become in ten minutes of a person's eyes? Clusters of CIFAR-10, named, merged and corrected.

    python -m benchmarks.labels --data DIR --folder WORK [--features embedded]

DIR holds train/CLASS/*.jpg and test/CLASS/*.jpg; WORK takes copies of the images and the clustering. 2,000 training
images are clustered into 20 by cluster.py. A script does in edits.json what a person would by the sheets: every cluster
takes the name of the class that most of its 12 most confident images have. Then it goes through all images, doubtful
ones first, and moves the first 200 that are in a wrong cluster to one that has their name. label.py makes labels and a
classifier, before and after the moves; predict.py names 2,000 test images. Here labels stand in for the person, and
score. Writes benchmarks/results/labels.json.
"""

import argparse
import csv
import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import cluster
import label
import predict
from benchmarks import common
from report.edits import Clustering, read_clusters
from system.runtime import generator

NUM_IMAGES, NUM_CLUSTERS, NUM_SEEN, NUM_MOVED = 2000, 20, 12, 200


def copy_images(source: Path, target: Path) -> None:
    """Copy a random choice of images, as many of each class, into one folder; names begin with the class."""
    if target.exists():
        return
    classes = sorted(path for path in source.iterdir() if path.is_dir())
    target.mkdir(parents=True)
    for folder in classes:
        files = sorted(folder.iterdir())
        chosen = torch.randperm(len(files), generator=generator("labels", source.name, folder.name))
        for i in chosen[: NUM_IMAGES // len(classes)].tolist():
            shutil.copy(files[i], target / f"{folder.name}-{files[i].name}")


def truth(path: str) -> str:
    """The class of an image, which its name begins with."""
    return Path(path).name.partition("-")[0]


def name_clusters(clustering: Clustering) -> dict[int, str]:
    """The name that a person gives each cluster who looks at its most confident images."""
    order = sorted(range(len(clustering.paths)), key=lambda i: -float(clustering.confidence[i]))
    names = {}
    for one in set(clustering.clusters):
        seen = [truth(clustering.paths[i]) for i in order if clustering.clusters[i] == one][:NUM_SEEN]
        names[one] = Counter(seen).most_common(1)[0][0]
    return names


def correct(clustering: Clustering, names: dict[int, str]) -> tuple[dict[int, int], int]:
    """The first 200 moves of one who goes through the images, doubtful ones first; and how many were looked at."""
    group_of = {name: one for one, name in sorted(names.items(), reverse=True)}
    free = NUM_CLUSTERS
    for name in sorted({truth(path) for path in clustering.paths} - set(group_of)):
        group_of[name], free = free, free + 1  # no cluster is called so: a new one
    moved: dict[int, int] = {}
    order = sorted(range(len(clustering.paths)), key=lambda i: float(clustering.confidence[i]))
    looked_at = 0
    for i in order:
        looked_at += 1
        own = truth(clustering.paths[i])
        if names[clustering.clusters[i]] != own:
            moved[i] = group_of[own]
        if len(moved) == NUM_MOVED:
            break
    names |= {group: name for name, group in group_of.items() if group >= NUM_CLUSTERS}
    return moved, looked_at


def accuracy(path: Path) -> float:
    """The share of a table's rows whose label is right."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return round(sum(row["label"] == truth(row["path"]) for row in rows) / len(rows), 4)


def measure(output: Path, folder: Path, edits: dict[str, Any]) -> dict[str, float]:
    """What label.py and predict.py make of edits: accuracies of labels.csv and on new images."""
    path = folder / "edits.json"
    path.write_text(json.dumps(edits), encoding="utf-8")
    call(label.main, output, path)
    call(predict.main, "--model", output, folder / "new", "--output", folder / "new.csv")
    told = json.loads((output / "labels" / "run.json").read_text(encoding="utf-8"))["result"]
    return {
        "labels_acc": accuracy(output / "labels.csv"),
        "classifier_cross_validated": round(told["cross_validated"], 4),
        "classifier_acc_on_new_images": accuracy(folder / "new.csv"),
    }


def call(main: Any, *words: Any) -> None:
    """Run a command in this process; ends the program when it fails."""
    if main([str(word) for word in words]):
        raise SystemExit(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with train/CLASS and test/CLASS")
    parser.add_argument("--folder", type=Path, required=True, help="where images and results go")
    parser.add_argument("--features", default="embedded", help="as in cluster.py")
    args = parser.parse_args(argv)
    copy_images(args.data / "train", args.folder / "images")
    copy_images(args.data / "test", args.folder / "new")
    output = args.folder / "out"
    words = ["--num_clusters", NUM_CLUSTERS, "--features", args.features, "--output", output]
    call(cluster.main, args.folder / "images", *words)

    clustering = read_clusters(output / "clusters.csv")
    names = name_clusters(clustering)
    empty: dict[str, Any] = {"merged": {}, "rejected": [], "moved": {}}
    edits = {"format": "scan-edits-1", "fingerprint": clustering.fingerprint, **empty}
    before = measure(output, args.folder, {**edits, "names": {str(key): name for key, name in names.items()}})
    named = len(set(names.values()))
    moved, looked_at = correct(clustering, names)
    corrected = {
        **edits,
        "names": {str(key): name for key, name in names.items()},
        "moved": {str(key): group for key, group in moved.items()},
    }
    result = {
        "images": NUM_IMAGES,
        "clusters": NUM_CLUSTERS,
        "features": args.features,
        "classes_named": named,
        "named": before,
        "corrected": {"moved": len(moved), "looked_at": looked_at, **measure(output, args.folder, corrected)},
        "commit": common.machine()["commit"],
    }
    print(json.dumps(result, indent=1))
    common.write_result(common.RESULTS / "labels.json", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
