"""How good do labels become in ten minutes of a person's eyes? Clusters of CIFAR-10, named, merged and corrected.

    python -m benchmarks.labels --data DIR --folder WORK [--features embedded] [--finetune]
    python -m benchmarks.labels --data DIR --folder WORK --num_images 200 --num_moved 20 --out /tmp/labels.json   # try

DIR holds train/CLASS/*.jpg and test/CLASS/*.jpg; WORK takes copies of the images and the clustering. 2,000 training
images are clustered into 20 by cluster.py. A script does in edits.json what a person would by the sheets: every cluster
takes the name of the class that most of its 12 most confident images have, and those of one name are merged. Then it
goes through all images and moves the first 200 that are in a wrong cluster to one that has their name: in the order of
the first report, doubtful ones first by the cluster's confidence, or in that of the second, by what the classifier of
the names says. label.py makes labels and a classifier, before and after the moves, and with --finetune a network;
predict.py names 2,000 test images. Here labels stand in for the person, and score. Writes
benchmarks/results/labels.json.
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
from report.edits import Clustering, Edits, read_clusters
from report.round import BEGIN, END
from system.runtime import generator

NUM_CLUSTERS, NUM_SEEN = 20, 12


def copy_images(source: Path, target: Path, num_images: int) -> None:
    """Copy a random choice of images, as many of each class, into one folder; names begin with the class."""
    if target.exists():
        return
    classes = sorted(path for path in source.iterdir() if path.is_dir())
    target.mkdir(parents=True)
    for folder in classes:
        files = sorted(folder.iterdir())
        chosen = torch.randperm(len(files), generator=generator("labels", source.name, folder.name))
        for i in chosen[: num_images // len(classes)].tolist():
            shutil.copy(files[i], target / f"{folder.name}-{files[i].name}")


def truth(path: str) -> str:
    """The class of an image, which its name begins with."""
    return Path(path).name.partition("-")[0]


def name_clusters(clustering: Clustering) -> Edits:
    """What a person does who looks at the most confident images of each cluster: names, and merges of one name."""
    order = sorted(range(len(clustering.paths)), key=lambda i: -float(clustering.confidence[i]))
    names: dict[str, str] = {}
    merged: dict[str, int] = {}
    first: dict[str, int] = {}
    for one in sorted(set(clustering.clusters)):
        seen = [truth(clustering.paths[i]) for i in order if clustering.clusters[i] == one][:NUM_SEEN]
        name = Counter(seen).most_common(1)[0][0]
        if name in first:
            merged[str(one)] = first[name]
        else:
            first[name], names[str(one)] = one, name
    return Edits(
        format="scan-edits-1",
        fingerprint=clustering.fingerprint,
        names=names,
        merged=merged,
        rejected=[],
        moved={},
    )


def correct(clustering: Clustering, edits: Edits, order: Sequence[int], num_moved: int) -> tuple[Edits, int]:
    """The first moves of one who goes through the images in an order; and how many were looked at."""
    found = edits.model_copy(deep=True)
    group_of = {name: int(one) for one, name in found.names.items()}
    for name in sorted({truth(path) for path in clustering.paths} - set(group_of)):
        group_of[name] = NUM_CLUSTERS + len(found.names)  # no cluster is called so: a new group
        found.names[str(group_of[name])] = name
    looked_at = 0
    for i in order:
        looked_at += 1
        cluster, own = clustering.clusters[i], truth(clustering.paths[i])
        if found.merged.get(str(cluster), cluster) != group_of[own]:
            found.moved[str(i)] = group_of[own]
        if len(found.moved) == num_moved:
            break
    return found, looked_at


def doubtful_first(page: Path) -> list[int]:
    """The order in which the report of a second round shows the images."""
    text = page.read_text(encoding="utf-8")
    content = text[text.index(BEGIN) + len(BEGIN) :]
    sure = json.loads(content[: content.index(END)])["sure"]
    return sorted(range(len(sure)), key=lambda i: sure[i])


def accuracy(path: Path) -> float:
    """The share of a table's rows whose label is right."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return round(sum(row["label"] == truth(row["path"]) for row in rows) / len(rows), 4)


def measure(output: Path, folder: Path, edits: Edits, *words: str) -> dict[str, Any]:
    """What label.py and predict.py make of edits: accuracies of labels.csv and on new images."""
    path = folder / "edits.json"
    path.write_text(edits.model_dump_json(), encoding="utf-8")
    call(label.main, output, path, *words)
    call(predict.main, "--model", output, folder / "new", "--output", folder / "new.csv")
    told = json.loads((output / "labels" / "run.json").read_text(encoding="utf-8"))["result"]
    found = {
        "moved": len(edits.moved),
        "labels_acc": accuracy(output / "labels.csv"),
        "classifier_cross_validated": round(told["cross_validated"], 4),
        "classifier_acc_on_new_images": accuracy(folder / "new.csv"),
    }
    return found | {key: told[key] for key in ("held_out", "finetuned") if key in told}


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
    parser.add_argument("--finetune", action="store_true", help="also train the network with the corrected labels")
    parser.add_argument("--num_images", type=int, default=2000, help="to cluster, and as many new ones")
    parser.add_argument("--num_moved", type=int, default=200, help="images that are corrected")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "labels.json")
    args = parser.parse_args(argv)
    copy_images(args.data / "train", args.folder / "images", args.num_images)
    copy_images(args.data / "test", args.folder / "new", args.num_images)
    output = args.folder / "out"
    words = ["--num_clusters", NUM_CLUSTERS, "--features", args.features, "--output", output]
    call(cluster.main, args.folder / "images", *words)

    clustering = read_clusters(output / "clusters.csv")
    named = name_clusters(clustering)
    result: dict[str, Any] = {
        "images": args.num_images,
        "clusters": NUM_CLUSTERS,
        "features": args.features,
        "classes_named": len(named.names),
        "merged": len(named.merged),
        "named": measure(output, args.folder, named),
    }
    by_doubt = doubtful_first(output / "report.html")
    by_confidence = sorted(range(len(clustering.paths)), key=lambda i: float(clustering.confidence[i]))
    for key, order in (("corrected", by_confidence), ("corrected_in_second_round", by_doubt)):
        corrected, looked_at = correct(clustering, named, order, args.num_moved)
        result[key] = {"looked_at": looked_at, **measure(output, args.folder, corrected)}
        if args.finetune:
            result[key]["with_finetune"] = measure(output, args.folder, corrected, "--finetune")
    result["machine"] = common.machine(command="python -m benchmarks.labels --data DIR --folder WORK")
    print(json.dumps(result, indent=1))
    common.write_result(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
