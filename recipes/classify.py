"""The classifier of named classes that label.py trains on the features of a clustering, and leaves as a run does."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from clustering.classifier import Classifier, fit_classifier
from clustering.prediction import predict
from models.heads import describe_head
from models.loading import load_backbone, load_leave_out
from models.models import ClusteringModel
from models.weights import read_weights, save_weights
from recipes.finetune import Finetuned
from report.edits import classes_of
from system.console import say
from system.errors import UserError
from system.files import verify_file, write_text
from system.runtime import Runtime
from system.text import shown
from training.folder import CONFIG, MODEL
from training.record import RECORD, read_record
from utils import clusters, mined, saved
from utils.common_config import get_backbone, get_embedder, get_val_dataset


def find_features(p: Any, model: Path, paths: Sequence[str], device: str) -> Tensor:
    """Backbone features `[N, D]` of a clustering's images: those that its first stage left, or else computed.

    `p` is the config of its `model`. Raises UserError when the images are no longer those of `paths`.
    """
    dataset = get_val_dataset(p)
    places = {path: i for i, path in enumerate(dataset.paths)}
    gone = [path for path in paths if path not in places]
    if gone:
        raise UserError(
            f"{shown(gone[0])} was clustered, but is missing or unreadable in {p.train_db_kwargs.root} ({len(gone):,} "
            "such images); put them back, or cluster what is there"
        )
    if p.setup == "candidates":
        _require_unchanged(p, dataset)
        features = mined.load_features(p, "train", dataset)
    else:
        runtime = Runtime.start(device, p.precision, deterministic=p.deterministic)
        found = predict(*clusters.load_for_prediction(p, model, runtime), dataset, get_embedder(p, runtime))
        features = found.features.float().cpu()
    return features[[places[path] for path in paths]]


def _require_unchanged(p: Any, dataset: Any) -> None:
    """Raise UserError when the images are others than those whose features the first stage left."""
    path = Path(p.topk_neighbors_train_path)
    facts = (verify_file(path) if path.is_file() else None) or {}
    if facts.get("fingerprint", dataset.fingerprint()) != dataset.fingerprint():
        raise UserError(
            f"the images in {p.train_db_kwargs.root} changed since they were clustered; put back those that were there "
            "then, or cluster them again"
        )


def look_again(found: Classifier, features: Tensor, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What a classifier says of all images of a clustering, of labeled ones without having seen them.

    Returns the most probable class, int `[N]`, and the probability of an image's label, or of that class where it has
    none, float `[N]`.
    """
    classes = classes_of(names)
    with torch.no_grad():
        probabilities = found.head(features.float()).softmax(1).cpu()
    rows = [i for i, name in enumerate(names) if name]
    if found.left_out is not None:
        probabilities[rows] = found.left_out
    sure, likely = probabilities.max(1)
    sure[rows] = probabilities[rows, [classes.index(names[i]) for i in rows]]
    return likely.numpy(), sure.numpy()


def train_classifier(
    p: Any, model: Path, folder: Path, features: Tensor, names: Sequence[str], tuned: Finetuned | None = None
) -> Classifier:
    """Train a classifier of the images that have a name, and write it to a folder as a run leaves its model.

    Args:
        p: the config of the clustering's model.
        model: the file whose backbone gives the features.
        folder: where the classifier goes.
        features: of all images of the clustering, [N, D].
        names: a class's name for each of them, empty where there is none; two classes at least.
        tuned: a network that was fine-tuned, which is written instead where it is better.
    """
    started, classes = time.monotonic(), classes_of(names)
    rows = [i for i, name in enumerate(names) if name]
    targets = torch.tensor([classes.index(names[i]) for i in rows])
    found = fit_classifier(features[rows], targets, len(classes), p.seed)
    kept = tuned if tuned and tuned.is_better else None
    head, own = (kept.head if kept else found.head), read_weights(model)
    network = ClusteringModel(get_backbone(p), len(classes), heads=[head])
    load_backbone(network, read_weights(kept.path) if kept else own)
    load_leave_out(network, own)
    if network.leave_out and (kept or network.leave_out(features[rows]).any()):
        why = "the fine-tuned network has other features" if kept else "an image that was left out has a name"
        say(f"no new image is left out, as {why}; predict.py --min_confidence leaves out doubtful ones")
        network.leave_out = None
    save_weights(folder / MODEL, {"model": network.state_dict(), "head": 0}, setup=p.setup)
    config = saved.relative_config(model.parent / CONFIG, folder)
    config |= {"num_classes": len(classes), "class_names": classes, "head_kwargs": describe_head(head)}
    write_text(folder / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True), record=True)
    result: dict[str, Any] = {"cross_validated": found.accuracy, "C": found.strength, "num_labeled": len(rows)}
    if tuned:
        held_out = {"images": tuned.num_held_out, "finetuned": tuned.accuracy, "logistic_regression": tuned.logistic}
        result |= {"held_out": held_out, "finetuned": tuned.is_better}
    record = {
        **read_record(model.parent),  # how images are read and features computed
        "status": "finished",
        "seconds": round(time.monotonic() - started, 2),
        "result": result,
    }
    write_text(folder / RECORD, json.dumps(record, indent=1) + "\n", record=True)
    return found
