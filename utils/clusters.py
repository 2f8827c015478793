"""Watching a clustering stage without labels, and scoring it with them where there are any."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from easydict import EasyDict
from torch import Tensor

from clustering import scores as evaluate
from clustering.features import head_probabilities
from models import weights
from models.models import ClusteringModel
from report import plots
from system import distributed
from system.console import say, warn
from system.distributed import is_main
from system.runtime import Runtime
from training.board import Board
from utils.common_config import get_model
from utils.pretext import embed_split


@dataclass(frozen=True)
class HeadScores:
    """A head's validation loss (no label used), its cluster sizes int64 `[C]`, and what labels say of it, if any."""

    head: int
    loss: float
    cluster_sizes: Tensor
    monitored: dict[str, float]


class Validator:
    """Scores every head of a model on the validation split by the SCAN validation loss."""

    def __init__(self, p: EasyDict, val: Any, neighbors: Tensor, runtime: Runtime) -> None:
        self.p, self.val, self.neighbors, self.runtime = p, val, neighbors, runtime
        self._frozen: Tensor | None = None

    def _features(self, model: ClusteringModel) -> Tensor:
        """Backbone features `[N, D]`; those of a frozen backbone are computed once."""
        if self._frozen is not None:
            return self._frozen
        runtime = self.runtime
        features = embed_split(self.p, model.backbone, self.val, runtime, dtype=runtime.training, desc="validation")
        if self.p.update_cluster_head_only:
            self._frozen = features
        return features

    def best_head(self, model: ClusteringModel) -> HeadScores:
        """The head with the lowest loss, the lower number in a tie."""
        losses, clusters = [], []
        for probabilities in head_probabilities(model, self._features(model)):
            losses.append(evaluate.validation_loss(probabilities, self.neighbors).total.item())
            clusters.append(probabilities.argmax(1))
        head = losses.index(min(losses))
        sizes = torch.bincount(clusters[head], minlength=self.p.num_classes).cpu()
        best = HeadScores(head, losses[head], sizes, {})
        if self.val.has_labels:
            scores = evaluate.score_clusters(clusters[head], self.val.targets, len(sizes), num_classes(self.val))
            best.monitored["acc_from_labels"] = round(scores["acc"], 4)
        return distributed.from_main(best)  # ranks that rounded differently would part ways over it


def num_classes(dataset: Any) -> int:
    """Number of classes that a data set's labels speak of."""
    return max(len(dataset.classes), int(dataset.targets.max()) + 1)


@dataclass(frozen=True)
class Prediction:
    """What a model says of a split: backbone features `[N, D]` and its best head's probabilities `[N, C]`."""

    features: Tensor
    probabilities: Tensor


def load_clustering(p: EasyDict, path: str | Path) -> tuple[Any, int]:
    """The scan or self-label model of a file and the number of the head that counts."""
    read = weights.read_weights(path)
    if p.setup == "selflabel":
        read = weights.keep_head(read)
    model = get_model(EasyDict({**p, "num_heads": max(1, read.num_heads)}))
    return model, weights.load_clusters(model, read)


@torch.no_grad()
def predict(p: EasyDict, model: Any, head: int, dataset: Any, runtime: Runtime) -> Prediction:
    """Apply a clustering model to a split, in the inference precision."""
    model = runtime.place(model)
    features = embed_split(p, model.backbone, dataset, runtime, desc="evaluation")
    return Prediction(features, torch.softmax(model.cluster_head[head](features), dim=1))


def score(prediction: Prediction, dataset: Any) -> dict[str, Any]:
    """Scores of a prediction; empty without labels."""
    if not dataset.has_labels:
        return {}
    return evaluate.score(prediction.probabilities, dataset.targets, num_classes(dataset))


def final_scores(p: EasyDict, path: str, val: Any, runtime: Runtime) -> dict[str, Any]:
    """Evaluate a stage's model file, draw its confusion matrix beside it, and return the numbers for run.json."""
    prediction = predict(p, *load_clustering(p, path), val, runtime)
    scores = score(prediction, val)
    if scores and is_main():
        draw_confusion(Path(path).parent / "confusion_matrix.png", scores, val)
    if p.tensorboard and is_main():
        chosen = evaluate.prototypes(prediction.features, prediction.probabilities)
        board = Board(Path(path).parent, p.tensorboard, p.epochs)
        board.images("prototypes", val.load(torch.tensor(list(chosen.values())), "cpu"), p.epochs)
        board.close()
    return {key: value for key, value in scores.items() if key != "confusion"}


def draw_confusion(path: Path, scores: dict[str, Any], dataset: Any) -> None:
    """Write the matched confusion matrix as a PNG."""
    names = dataset.classes or [str(label) for label in range(num_classes(dataset))]
    plots.confusion_matrix(path, scores["confusion"], names, scores["matching"])


def warn_of_collapse(sizes: Tensor, num_clusters: int) -> None:
    """Say, while it happens, when clusters die out or everything falls into one; `sizes` is int64 `[C]`."""
    if num_clusters == 1:
        return
    used = int((sizes > 0).sum())
    share = sizes.double() / sizes.sum()
    evenness = -float(torch.special.xlogy(share, share).sum()) / math.log(num_clusters)  # 1: all of one size
    if evenness < 0.2:
        warn(
            f"{100 * float(share.max()):.0f} % of the validation images are in one cluster: training has collapsed. A "
            "higher criterion_kwargs.entropy_weight, a lower learning rate or a longer pretext task usually mend it"
        )
    elif used < num_clusters and num_clusters <= int(sizes.sum()):
        warn(f"{num_clusters - used} of {num_clusters} clusters are empty; early on this often mends itself")
    elif evenness < 0.5:
        warn("clusters are of very unequal size; if your classes are not, raise criterion_kwargs.entropy_weight")


def report(p: EasyDict, result: dict[str, Any], again: bool = False) -> int:
    """Say what came out; returns the exit code 0."""
    folder = p[f"{p.setup}_dir"]
    if again:
        say(f"this run is finished; overwrite=true starts it again. Its files are in {folder}")
    if p.setup == "scan":
        say(f"lowest validation loss {result['best_loss']:.4f} at epoch {result['best_epoch']}: {p.scan_model}")
    else:
        say(
            f"validation loss (no labels, lower is better; negative is normal): scan {result['scan_loss']:.4f}, best "
            f"{result['best_loss']:.4f} (epoch {result['best_epoch']}), last {result['last_loss']:.4f}"
        )
        if result["last_loss"] > result["scan_loss"]:
            warn(
                "self-labeling ends worse than it began by the label-free score; the scan model or "
                "model-best.pth.tar may serve better"
            )
    if "acc" in result:
        say("labels only score: " + words(result), "green")
        say(f"confusion matrix: {Path(folder) / 'confusion_matrix.png'}")
    else:
        say("there are no labels to score with; the validation loss above is what can be told")
    return 0


def words(scores: dict[str, Any]) -> str:
    """Scores as a line of percentages."""
    names = {
        "acc": "ACC",
        "nmi": "NMI",
        "ari": "ARI",
        "ami": "AMI",
        "top5": "Top-5",
        "acc_many_to_one": "ACC many-to-one",
    }
    return "  ".join(f"{name} {100 * scores[key]:.2f} %" for key, name in names.items() if key in scores)
