"""label.py --finetune: train a clustering's network on with labels, and see whether that beats logistic regression.

A fifth of every class's images is held out of both, so that one number compares them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from clustering.classifier import fit_classifier
from methods import supervised
from models.heads import LinearHead
from models.loading import load_backbone, load_classifier
from models.models import ClassifierModel
from models.plain import is_given
from models.pretrained import is_pretrained
from models.weights import read_weights, save_weights
from recipes.choose import Schedule, batch_size
from recipes.display import Display, Work
from recipes.labeling import Labeling
from recipes.record import LOG
from report.edits import Labels
from report.outputs import encode_rows
from system.console import say
from system.errors import ConfigError, UserError
from system.files import names_of, remove, write_file, write_text
from system.runtime import generator
from system.text import csv_cell, csv_path
from system.yaml_file import HERE
from training.comparison import to_plain
from training.folder import MODEL
from utils import mined, saved
from utils.common_config import get_backbone, get_val_dataset
from utils.config import load_config

ONE_IN = 5  # images of a class is held out
SCHEDULES = {True: Schedule(20_000, 3, 20), False: Schedule(100_000, 5, 50)}
"""Of a pretrained network, and of one that was trained on these images."""
RATE, TRAINED_LAYERS = 1e-4, 2  # of a pretrained network; the other keeps the optimizer of its last stage
ENV = "env.yml"


@dataclass(frozen=True)
class Finetuned:
    """A network that was trained on: its file, its classifier, and accuracies on the images that were held out."""

    path: Path
    head: LinearHead
    num_held_out: int
    accuracy: float
    logistic: float

    @property
    def is_better(self) -> bool:
        """Whether it beats logistic regression on the features as they were."""
        return self.accuracy > self.logistic

    @property
    def words(self) -> str:
        """What came out, in a sentence."""
        best = "the fine-tuned network" if self.is_better else "logistic regression, as fine-tuning is no better"
        return (
            f"on {self.num_held_out:,} labeled images that neither had seen: fine-tuned network "
            f"{100 * self.accuracy:.1f} %, logistic regression {100 * self.logistic:.1f} %; kept: {best}"
        )


def check_ready(p: Any, output: Path, labels: Labels) -> None:
    """Raise what would keep a clustering's network from being fine-tuned, before anything is written.

    That is ConfigError for clusters of features that came from a file, where there is no network, and UserError
    without training views or with too few labels.
    """
    if is_given(p.backbone):
        raise ConfigError("--finetune trains a network, and these clusters are of features from a file; leave it out")
    _views(p, output)
    hold_out(_targets(labels), p.seed)


def hold_out(targets: Tensor, seed: int) -> Tensor:
    """Which images are held out, bool `[N]`: of every class of int64 `[N]` a fifth, rounded down; never an unknown one.

    Raises UserError where that is none at all.
    """
    chosen = torch.zeros(len(targets), dtype=torch.bool)
    for label in targets[targets >= 0].unique().tolist():
        rows = (targets == label).nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=generator(seed, "held out", label))
        chosen[rows[order[: len(rows) // ONE_IN]]] = True
    if not chosen.any():
        raise UserError("--finetune needs a class of five images, to hold one out; label more, or leave it out")
    return chosen


def finetune(p: Any, model: Path, task: Labeling, features: Tensor, device: str) -> Finetuned:
    """Train the network of a clustering's `model` on with labels, or go on where that was interrupted.

    `p` is the model's config, `features` [N, D] are those of all images of the clustering. What it trains with is next
    to the classifier, in the output folder; other labels start again.
    """
    classes, targets = task.labels.classes, _targets(task.labels)
    held_out = hold_out(targets, p.seed)
    seen = (targets >= 0) & ~held_out
    begun = fit_classifier(features[seen], targets[seen], len(classes), p.seed)
    folder = task.output / saved.CLASSIFIER
    experiment = _write_inputs(folder, make_config(p, task, seen), p, model, begun.head, task, seen)
    words = [f"device={device}"]
    config = load_config(folder / ENV, experiment, words)
    run = Path(config.pretext_dir)
    say(f"fine-tuning the network with {int(seen.sum()):,} labeled images; the same command goes on where it stopped")
    display = Display([Work("fine-tuning the network", run, config.epochs, 0.02 * int(seen.sum()))], task.output / LOG)
    with display, display.stage("fine-tuning the network"):
        supervised.main(["--config_env", str(folder / ENV), "--config_exp", str(experiment), *words])
    head, tuned = _read(config, task.clustering.paths)
    logits = head(tuned[held_out])
    accuracy = (logits.argmax(1) == targets[held_out]).float().mean().item()
    logistic = (begun.head(features[held_out]).argmax(1) == targets[held_out]).float().mean().item()
    return Finetuned(run / MODEL, head, int(held_out.sum()), accuracy, logistic)


def make_config(p: Any, task: Labeling, seen: Tensor) -> dict[str, Any]:
    """The config of `methods.supervised` that trains on the images in `seen`; raises UserError without views."""
    views, pretrained, num_images = _views(p, task.output), is_pretrained(p.backbone), int(seen.sum())
    trained = {"optimizer": "adam", "optimizer_kwargs": {"lr": RATE}, "trained_layers": TRAINED_LAYERS}
    if not pretrained:
        trained = {key: to_plain(views[key]) for key in ("optimizer", "optimizer_kwargs")}
    kept = ("train_db_name", "backbone", "stem", "width", "transformation_kwargs", "seed", "precision")
    return {
        "setup": "supervised",
        "db_alias": saved.FINETUNED,
        **{key: to_plain(p[key]) for key in kept if p.get(key) is not None},
        "train_db_kwargs": to_plain(p.train_db_kwargs),
        "num_classes": len(task.labels.classes),
        "num_mined_train": min(20, len(seen) - 1),
        "num_mined_val": min(5, len(seen) - 1),
        "augmentation_strategy": views.augmentation_strategy,
        "augmentation_kwargs": to_plain(views.augmentation_kwargs),
        "criterion": "cross-entropy",
        **trained,
        "scheduler": "cosine",
        "scheduler_kwargs": {"lr_decay_rate": 0.1},
        "epochs": SCHEDULES[pretrained].epochs(num_images),
        "batch_size": batch_size(64, num_images, 4),
    }


def _targets(labels: Labels) -> Tensor:
    """The class of every image, int64 `[N]`, -1 where it has none."""
    numbers = {"": -1} | {name: number for number, name in enumerate(labels.classes)}
    return torch.tensor([numbers[name] for name in labels.names])


def _views(p: Any, output: Path) -> Any:
    """The config with a clustering's training views: its own, or that of refining it, which cluster.py wrote."""
    if p.augmentation_strategy:
        return p
    path = output / "configs" / "selflabel.yml"
    if not path.is_file():
        raise UserError(
            f"--finetune needs the training views in {path}, which is missing; cluster the images again, with a "
            "network whose last layers are known"
        )
    return load_config(path.with_name("env.yml"), path)


def _write_inputs(
    folder: Path, content: dict[str, Any], p: Any, model: Path, head: LinearHead, task: Labeling, seen: Tensor
) -> Path:
    """Write what a run of `methods.supervised` begins with, under a name that tells it from every other; its config.

    Begun with logistic regression, the network need not unlearn what a random classifier would have it learn first.
    """
    rows = zip(task.clustering.paths, task.labels.names, seen.tolist(), strict=True)
    table = encode_rows([["path", "label"], *([csv_path(path), csv_cell(name)] for path, name, used in rows if used)])
    facts = json.dumps([content, str(folder.resolve())]).encode()  # in a run's config its inputs are whole paths
    digest = hashlib.sha256(table + model.read_bytes() + facts).hexdigest()[:12]
    names = {kind: f"{saved.FINETUNED}-{digest}{kind}" for kind in (".csv", ".pth.tar", ".yml")}
    _remove_others(folder, digest)
    write_file(folder / names[".csv"], lambda file: file.write(table), record=False, listed=True)
    network = ClassifierModel(get_backbone(p), len(task.labels.classes))
    load_backbone(network, read_weights(model))
    network.classifier.load_state_dict(head.state_dict())
    save_weights(folder / names[".pth.tar"], network.state_dict())
    content["train_db_kwargs"] |= {"labels": f"{HERE}/{names['.csv']}"}
    content |= {"run_name": digest, "method_kwargs": {"start": f"{HERE}/{names['.pth.tar']}"}}
    write_text(folder / ENV, yaml.safe_dump({"root_dir": HERE, "threads": torch.get_num_threads()}), listed=True)
    write_text(folder / names[".yml"], yaml.safe_dump(content, sort_keys=False, allow_unicode=True), listed=True)
    return folder / names[".yml"]


def _remove_others(folder: Path, digest: str) -> None:
    """Remove what fine-tuning with other labels left in a classifier's folder."""
    for name in names_of(folder):
        if name.startswith(f"{saved.FINETUNED}-") and digest not in name:
            remove(folder / name)
    saved.remove_runs(folder / saved.FINETUNED / "pretext", digest)


def _read(config: Any, paths: Sequence[str]) -> tuple[LinearHead, Tensor]:
    """The classifier of a finished run, and features [N, D] of its network, a row for each path."""
    dataset = get_val_dataset(config)
    places = {path: i for i, path in enumerate(dataset.paths)}
    features = mined.load_features(config, "train", dataset)[[places[path] for path in paths]]
    network = ClassifierModel(get_backbone(config), config.num_classes)
    load_classifier(network, read_weights(config.pretext_model))
    head = LinearHead([network.backbone_dim], config.num_classes)
    head.load_state_dict(network.classifier.state_dict())
    return head.requires_grad_(False), features
