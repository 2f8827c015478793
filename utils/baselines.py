"""What a model's features give without its clusters: K-means on them, and a k-NN vote; fitted on the training split."""

from typing import Any

from easydict import EasyDict
from torch import nn

from clustering.kmeans import score_kmeans
from clustering.scores import count_classes
from system.console import say
from system.runtime import Runtime
from utils import pretext
from utils.common_config import get_embedder, get_train_dataset, get_val_dataset


def compare(p: EasyDict, module: nn.Module, dataset: Any, runtime: Runtime, args: Any) -> dict[str, Any]:
    """Print and return what the command line of eval.py asks for: `kmeans` and `knn_acc`, as its JSON has them."""
    if not (args.kmeans or args.knn):
        return {}
    train = dataset if args.split == "train" or not p.get("val_db_name") else get_train_dataset(p, None)
    given = (p, module, train, dataset, runtime)
    found: dict[str, Any] = {}
    if args.kmeans:
        found["kmeans"] = kmeans_scores(*given, args.kmeans_runs)
    if args.knn:
        found["knn_acc"] = knn_accuracy(*given)
    return found


def kmeans_scores(
    p: EasyDict, module: nn.Module, train: Any, dataset: Any, runtime: Runtime, num_runs: int
) -> dict[str, Any]:
    """Print and return mean and standard deviation of each score of K-means, fitted on `train`, on a split."""
    num_classes = count_classes(dataset)
    embedder = get_embedder(p, runtime)
    train_features = embedder.embed(module, train, desc="K-means fit")
    features = train_features if dataset is train else embedder.embed(module, dataset)
    sizes = {"num_clusters": p.num_classes or num_classes, "num_runs": num_runs, "num_classes": num_classes}
    runs = score_kmeans(train_features, features, dataset.targets, seed=p.seed, **sizes)
    line = "  ".join(f"{name.upper()} {100 * mean:.2f} ± {100 * std:.2f} %" for name, (mean, std) in runs.items())
    say(f"K-means on features, {num_runs} runs: {line}")
    return {name: {"mean": mean, "std": std} for name, (mean, std) in runs.items()}


def knn_accuracy(p: EasyDict, module: nn.Module, train: Any, dataset: Any, runtime: Runtime) -> float:
    """Print and return how often the weighted vote of the nearest training images names an image's class."""
    if train.classes != dataset.classes:  # a folder that lacks a class numbers the others differently
        dataset = get_val_dataset(p, classes=train.classes, reading=train.reading)
    accuracy = pretext.knn_accuracy(p, module, train, dataset, runtime)
    say(f"weighted k-NN accuracy: {100 * accuracy:.2f} %")
    return accuracy
