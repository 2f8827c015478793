"""After a clustering stage: its model loaded, applied, scored where there are labels, drawn and reported."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from easydict import EasyDict
from torch import Tensor

from clustering.candidate import BLOCK
from clustering.distil import distil
from clustering.mining import mine_neighbors
from clustering.neighbors import load_neighbors, mine_over_ranks
from clustering.prediction import Prediction, find_prototypes, predict, predict_features
from clustering.reliable import choose_reliable, local_agreement
from clustering.scores import count_classes, score, without_matrix
from data.given import FeatureTable
from models import loading, weights
from models.heads import build_head
from models.models import ClusteringModel
from models.plain import is_given
from report import collect, plots
from report.summary import NUM_NEIGHBORS
from system import distributed
from system.console import say, warn
from system.distributed import is_main
from system.errors import UserError
from system.paths import expand_path
from system.runtime import Runtime
from system.yaml_file import load_yaml
from training.board import Board
from training.comparison import to_plain
from training.folder import CONFIG, MODEL
from training.record import read_finished
from utils import engines, mined
from utils.common_config import get_backbone, get_embedder, get_model, get_train_dataset
from utils.setups import SETUPS, STAGES, how_to_run


def load_clustering(p: EasyDict, path: str | Path, advice: str = "check the path") -> tuple[Any, int]:
    """The clustering model of a file, with as many heads and clusters as it has, and the head that counts.

    Raises UserError for a file that is missing (`advice` then says what to do) or does not fit the config's backbone.
    """
    read = weights.read_weights(path, advice)
    if kwargs := read_head(p, Path(path)):
        head = build_head(**to_plain(kwargs))
        model = ClusteringModel(get_backbone(p), head.num_clusters, heads=[head])
        loading.load_parts(model, read)
        loading.load_leave_out(model, read)
        return model, 0
    loading.best_head(read)
    backbone = get_backbone(p)
    loading.load_backbone(ClusteringModel(backbone, 1), read)  # before heads are built as the file has them
    model = ClusteringModel(backbone, loading.count_clusters(read, backbone["dim"]), read.num_heads)
    loading.load_leave_out(model, read)
    return model, loading.load_clusters(model, read)


def load_for_prediction(
    p: EasyDict, path: str | Path, runtime: Runtime, advice: str = "check the path"
) -> tuple[Any, int]:
    """`load_clustering` on the device, a pretrained backbone in the form that its run computed features in."""
    model, head = load_clustering(p, path, advice)
    model.backbone = engines.prepare(p, model.backbone, Path(path).parent, runtime.device)
    return runtime.place(model), head


def load_start(p: EasyDict, dataset: Any) -> Any:
    """The model that self-labeling refines: the scan model, or the clustering of features that was chosen.

    That one may be of any kind. Its clusters become those of one linear layer, of which half of the images are
    confident.
    """
    if p.starts_from == "scan":
        return get_model(p, p.scan_model)
    model = get_model(p)
    chosen, head = load_clustering(EasyDict({**p, "setup": "candidates"}), p.candidates_model, how_to_run("candidates"))
    features = mined.load_features(p, "train", dataset)

    def fit() -> dict[str, Tensor]:
        with torch.no_grad():
            assigned = torch.cat([chosen.cluster_head[head](block).argmax(1) for block in features.split(BLOCK)])
        return distil(features, assigned, p.num_classes, p.confidence_threshold).state_dict()

    model.backbone.load_state_dict(chosen.backbone.state_dict())
    model.cluster_head[0].load_state_dict(distributed.on_main(fit))
    return model


def find_reliable(p: EasyDict, model: Any, dataset: Any, runtime: Runtime) -> tuple[Tensor, Tensor]:
    """The images of a split whose clusters by the model serve as labels, and all images' clusters: int64 `[R]`, `[N]`.

    Chosen without labels, by the images' neighbors in the model's own features.
    """
    num = p.reliable_neighbors
    if num > len(dataset):
        raise UserError(
            f"reliable_neighbors is {num}, but the training split has {len(dataset)} images; use fewer than a cluster "
            "has"
        )
    prediction = predict(model, 0, dataset, get_embedder(p, runtime))
    neighbors = torch.from_numpy(mine_over_ranks(prediction.features, num - 1, p.neighbors))
    probabilities = prediction.probabilities.cpu()
    rows = choose_reliable(probabilities, neighbors, p.reliable_share, p.cluster_prior)
    confidence, assigned = probabilities.max(1)
    agreement = local_agreement(assigned, neighbors)[rows].double() / num
    say(
        f"{len(rows):,} of {len(dataset):,} images are reliable: of each one's neighbors at least "
        f"{100 * agreement.min():.0f} % are in its cluster ({100 * agreement.mean():.0f} % on average), and its "
        f"probability is at least {confidence[rows].min():.2f}"
    )
    return distributed.from_main((rows, assigned))


def read_head(p: EasyDict, path: Path) -> dict[str, Any]:
    """What the head of a model is built from: as its config says, or the one next to the file; empty: it is linear."""
    if p.get("head_kwargs"):
        return p["head_kwargs"]
    own = path.parent / CONFIG
    if p.get("setup") not in SETUPS or SETUPS[p.setup].stage in STAGES or not own.exists():
        return {}
    found = load_yaml(own).get("head_kwargs")
    return found if isinstance(found, dict) else {}


def read_result(folder: Path) -> dict[str, Any]:
    """The result of the finished run in a folder; empty when there is none."""
    return read_finished(folder) or {}


def predict_split(p: EasyDict, model: Any, head: int, dataset: Any, runtime: Runtime) -> Prediction:
    """Apply a clustering model to a split: to its images, or to the features that somebody else computed of them."""
    given = is_given(p.backbone)
    if given and SETUPS[p.setup].starts_from == "pretext":
        return predict_features(model, head, mined.load_features(p, "train", dataset))
    if not given or "features" not in p.method_kwargs:
        return predict(model, head, dataset, get_embedder(p, runtime))
    table = FeatureTable(Path(expand_path(p.method_kwargs["features"])), model.backbone_dim)
    if table.paths is None and dataset.fingerprint() != get_train_dataset(p, None).fingerprint():
        raise UserError(
            f"the rows of {table.path} are those of the training split; score it with --split train, or give a "
            ".parquet file with the paths of all images"
        )
    return predict_features(model, head, table.select(dataset.paths))


def score_prediction(prediction: Prediction, dataset: Any) -> dict[str, Any]:
    """Scores of a prediction; empty without labels."""
    if not dataset.has_labels:
        return {}
    return score(prediction.probabilities, dataset.targets, count_classes(dataset))


def final_scores(p: EasyDict, path: str, val: Any, runtime: Runtime) -> dict[str, Any]:
    """Evaluate a stage's model file, draw its confusion matrix next to it, and return the numbers for run.json."""
    prediction = predict(*load_for_prediction(p, path, runtime), val, get_embedder(p, runtime))
    scores = score_prediction(prediction, val)
    if scores and is_main():
        draw_confusion(Path(path).parent / "confusion_matrix.png", scores, val)
    if p.tensorboard and is_main():
        chosen = find_prototypes(prediction.features, prediction.probabilities)
        board = Board(Path(path).parent, p.tensorboard, p.epochs)
        board.images("prototypes", val.load(torch.tensor(list(chosen.values())), "cpu"), p.epochs)
        board.close()
    return without_matrix(scores)


def write_report(
    path: Path,
    p: EasyDict,
    model_path: Path,
    dataset: Any,
    prediction: Prediction,
    scores: dict[str, Any],
    verdict: Mapping[str, Any] | None = None,
    unreadable: Sequence[str] | None = None,
) -> None:
    """Write report.html of a model's prediction, with the curves of the runs that led to it where it is their own.

    `verdict` says which of several candidates it is, and why; `unreadable` are files that were left out, None: unknown.
    """
    stage = SETUPS[p.setup].stage
    before = STAGES[: STAGES.index(stage)] if stage in STAGES else ()
    folders = {name: Path(p[f"{name}_dir"]) for name in (*before, stage)}
    own = model_path.parent.resolve() == folders[stage].resolve()
    given = folders if own else {}
    neighbors = find_neighbors(p, dataset, prediction)
    collect.write_report(path, p, model_path, given, dataset, prediction, scores, verdict, neighbors, unreadable)


def find_neighbors(p: EasyDict, dataset: Any, prediction: Prediction) -> np.ndarray:
    """The nearest images of each, column 0 itself: those that were mined, or else those in the model's own features."""
    split = "val" if p.get("val_db_name") else "train"
    path = p.get(f"topk_neighbors_{split}_path")
    num = min(NUM_NEIGHBORS, len(dataset) - 1)
    if path and Path(path).exists():
        with contextlib.suppress(UserError):  # of other images, or fewer
            return load_neighbors(path, len(dataset), num, dataset.fingerprint(), "")
    return mine_neighbors(prediction.features, num, p.get("neighbors") or "auto")


def draw_confusion(path: Path, scores: dict[str, Any], dataset: Any) -> bool:
    """Write the matched confusion matrix as a PNG; returns whether that succeeded."""
    names = dataset.classes or [str(label) for label in range(count_classes(dataset))]
    return plots.confusion_matrix(path, scores["confusion"], names, scores["matching"])


def draw_prototypes(path: Path, prediction: Prediction, matching: Sequence[Sequence[int]], dataset: Any) -> bool:
    """Write each cluster's most typical image, with the class it is matched with, as a PNG; returns whether it did."""
    kept = None if prediction.left_out is None else ~prediction.left_out.cpu().numpy()
    chosen = find_prototypes(prediction.features, prediction.probabilities, kept)
    names = {cluster: dataset.classes[label] for cluster, label in matching if dataset.classes}
    labels = [f"{cluster}: {names[cluster]}" if cluster in names else str(cluster) for cluster in chosen]
    return plots.prototype_sheet(path, dataset.load(torch.tensor(list(chosen.values())), "cpu"), labels)


def report(p: EasyDict, result: dict[str, Any], again: bool = False) -> int:
    """Say what came out; returns the exit code 0."""
    folder = p[f"{SETUPS[p.setup].stage}_dir"]
    if again:
        say(f"this run is finished; overwrite=true starts it again. Its files are in {folder}")
    if "sentence" in result:  # of a number of clusters; nothing was clustered for good
        say(result["sentence"])
        return 0
    if "candidates" in result:
        for line in candidate_table(result["candidates"]):
            say(line)
        say(result["reason"])
        say(result["trust"])
    best = {"best_loss", "best_epoch"} <= result.keys()
    if best and "scan_loss" not in result:
        path = Path(folder) / MODEL
        kind = "validation loss" if SETUPS[p.setup].starts_from else "loss of an epoch"
        say(f"lowest {kind} {result['best_loss']:.4f} at epoch {result['best_epoch']}: {path}")
    elif best and "last_loss" in result:
        say(
            f"validation loss (no labels, lower is better; negative is normal): {p.starts_from} "
            f"{result['scan_loss']:.4f}, best "
            f"{result['best_loss']:.4f} (epoch {result['best_epoch']}), last {result['last_loss']:.4f}"
        )
        if (emptied := result.get("emptied", 0)) > 0:
            warn(
                f"self-labeling emptied {emptied} cluster{'' if emptied == 1 else 's'}; model-best.pth.tar or the "
                "model that it started from may serve better: compare them with eval.py --report --model FILE"
            )
        elif result["last_loss"] > result["scan_loss"] and p.starts_from == "scan":
            say(
                "the validation loss rose, as it often does while clusters get better; to compare the models, run "
                "eval.py --report --model FILE on each"
            )
        elif result["last_loss"] > result["scan_loss"]:
            warn(
                "self-labeling ends worse than it began by the label-free score; the clustering that it started from "
                "or model-best.pth.tar may serve better"
            )
    if "acc" in result:
        say("labels only score: " + words(result, p.num_classes), "green")
        if (Path(folder) / "confusion_matrix.png").exists():
            say(f"confusion matrix: {Path(folder) / 'confusion_matrix.png'}")
    else:
        say("there are no labels to score with; only the lines above say how good the clusters are")
    return 0


def candidate_table(candidates: list[dict[str, Any]]) -> list[str]:
    """All candidates with their label-free scores, a line each; ACC where there were labels to score with."""
    names = {"neighbors": "neighbors", "agreement": "agreement", "evenness": "evenness", "acc_from_labels": "ACC %"}
    keys = [key for key in names if key in candidates[0]]
    width = max(len(row["name"]) for row in candidates)
    lines = [" ".join([f"{'candidate':<{width}}", *(f"{names[key]:>10}" for key in keys), f"{'in use':>7}"])]
    for row in candidates:
        shown = {key: 100 * row[key] if key == "acc_from_labels" else row[key] for key in keys if key in row}
        cells = [
            f"{shown[key]:10.{2 if key == 'acc_from_labels' else 3}f}" if key in shown else f"{'–':>10}" for key in keys
        ]
        lines.append(" ".join([f"{row['name']:<{width}}", *cells, f"{row['used']:>7}"]))
    return lines


def words(scores: dict[str, Any], num_clusters: int) -> str:
    """Scores as a line of percentages; Top-5 says nothing of five clusters or fewer, and is left out."""
    names = {
        "acc": "ACC",
        "nmi": "NMI",
        "ari": "ARI",
        "ami": "AMI",
        "top5": "Top-5",
        "acc_many_to_one": "ACC many-to-one",
    }
    shown = {key for key in scores if key != "top5" or num_clusters > 5}
    return "  ".join(f"{name} {100 * scores[key]:.2f} %" for key, name in names.items() if key in shown)
