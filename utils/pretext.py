"""What follows a pretext task: features, neighbor files, and what can be said of them."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from easydict import EasyDict
from torch import Tensor, nn

from clustering.neighbors import mine_over_ranks, purity, save_neighbors, weighted_knn
from clustering.parts import Parts
from data.files.reading import record_of
from data.files.stream import UnreadableImageError
from models.models import FeatureModel, LayerFeatures
from models.weights import save_weights
from report import plots
from system import distributed, owned
from system.console import say, warn
from system.errors import UserError
from system.files import is_own, remove, write_file
from system.lock import lock_folder
from system.paths import usable
from system.runtime import Runtime, generator
from training.folder import PER_SPLIT, adopt
from training.record import RECORD, read_finished
from training.run import Run
from utils import engines
from utils.common_config import get_embedder, get_model, get_splits, get_train_dataset, get_val_dataset
from utils.config import require
from utils.setups import SETUPS

PURITY_AT = (1, 5, 20)
KNN = 100
SHEET_ROWS, SHEET_COLUMNS = 10, 10  # random images, and neighbors next to each


def feature_module(p: EasyDict, model: Any) -> Any:
    """The part of a pretext model whose outputs are mined: all of it (SimCLR), its backbone (MoCo), or a layer's.

    Raises ConfigError for a layer that the backbone does not have.
    """
    mined = p.mine_features or SETUPS[p.setup].mined
    if mined == "head":
        return model
    return model.backbone if mined == "backbone" else LayerFeatures(model.backbone, mined)


def num_features(p: EasyDict, model: Any, module: Any) -> int:
    """The length of what `feature_module` returns."""
    if module is not model:
        return model.backbone_dim if module is model.backbone else module.num_dims
    return p.model_kwargs.features_dim if SETUPS[p.setup].num_outputs is None else model.classifier.out_features


def network_dims(model: Any) -> Sequence[int]:
    """The lengths of several networks' features in the outputs that are mined; empty where they are one network's."""
    return model.dims if isinstance(model, FeatureModel) else ()


def knn_accuracy(
    p: EasyDict, module: nn.Module, train: Any, val: Any, runtime: Runtime, dtype: torch.dtype | None = None
) -> float:
    """Accuracy on `val` of the weighted k-NN vote of `train`'s labeled features; it uses labels, and only monitors."""
    embedder = get_embedder(p, runtime)
    bank = embedder.embed(module, train, dtype=dtype, desc="k-NN bank")
    queries = bank if val is train else embedder.embed(module, val, dtype=dtype, desc="k-NN queries")
    temperature = p.criterion_kwargs.get("temperature", p.temperature)
    targets = train.targets.to(runtime.device)
    predictions = weighted_knn(
        bank, targets, queries, len(train.classes), KNN, temperature, leave_own_out=val is train
    ).cpu()
    known = val.targets >= 0
    return (predictions[known] == val.targets[known]).float().mean().item()


class KnnMonitor:
    """Weighted k-NN accuracy every `knn_every` epochs and after the last, where there are labels.

    The bank is `train`, the split that the scan stage trains on: STL-10's unlabeled images have no vote. What votes
    are a contrastive head's outputs; of a model that classifies, the features that are mined.
    """

    def __init__(self, p: EasyDict, model: nn.Module, train: Any, val: Any, runtime: Runtime) -> None:
        module = feature_module(p, model)  # raises for a layer that is not there, before anything is trained
        self.module = model if SETUPS[p.setup].num_outputs is None else module
        self.p, self.val, self.runtime = p, val, runtime
        self.possible = train.has_labels and val.has_labels
        self.train = train

    def due(self, epoch: int) -> bool:
        """Whether this epoch (from 0) ends with a look."""
        return self.possible and ((epoch + 1) % self.p.knn_every == 0 or epoch + 1 == self.p.epochs)

    def accuracy(self) -> float:
        """The accuracy now, computed in the training precision."""
        p, runtime = self.p, self.runtime
        return round(knn_accuracy(p, self.module, self.train, self.val, runtime, runtime.training), 4)


def scan_split(p: EasyDict, train: Any) -> Any:
    """The training split of the scan stage, which for STL-10 is not that of the pretext task."""
    return get_train_dataset(p, None) if p.train_db_name == "stl-10" else train


def num_to_mine(p: EasyDict, train: Any, val: Any) -> dict[str, int]:
    """How many neighbors each split's file gets; raises UserError when there are not so many images."""
    wanted = {"train": p.num_mined_train or min(SETUPS[p.setup].num_mined or 0, len(train) - 1), "val": p.num_mined_val}
    for split, dataset in (("train", train), ("val", val)):
        if wanted[split] > len(dataset) - 1:
            raise UserError(
                f"num_mined_{split} is {wanted[split]}, but the {split} split has {len(dataset)} images; use at most "
                f"{len(dataset) - 1}"
            )
    return wanted


def get_splits_to_mine(p: EasyDict, run: Run) -> tuple[Any, Any, Any]:
    """The images that a task without labels trains on, the training split that is mined, and the validation split.

    Raises UserError for more neighbors than there are images: what would fail after training fails before it.
    """
    train, val = get_splits(p, run, "train+unlabeled")
    mined = scan_split(p, train)
    num_to_mine(p, mined, val)
    return train, mined, val


def save_and_mine(p: EasyDict, model: nn.Module, run: Run, mined: Any, val: Any) -> dict[str, Any]:
    """Save a trained model and mine its neighbors; returns a pretext stage's result."""
    save_weights(p.pretext_model, model.state_dict(), setup=p.setup)
    return {"loss": run.metrics[-1]["loss"]} | mine(p, model, run.runtime, mined, val)


def mine(
    p: EasyDict,
    model: Any,
    runtime: Runtime,
    train: Any,
    val: Any,
    made_from: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Mine and save both neighbor files and their features; returns purity where there are labels.

    `train` is the scan stage's training split. With `made_from`, all that features depend on besides the images, an
    interrupted call leaves those it has for the next.
    Raises UserError when more neighbors are asked for than there are images.
    """
    module = feature_module(p, model)
    num_dims = num_features(p, model, module)
    embedder = get_embedder(p, runtime)
    kept: list[tuple[Parts, Any]] = []

    def hold(dataset: Any, path: Path) -> Tensor | np.ndarray:
        if made_from is None:
            return embedder.hold(module, num_dims, dataset, path)
        facts = {**made_from, "images": dataset.fingerprint(), "batch_size": embedder.batch_size}
        if dataset.reading is not None:
            facts |= {"side": dataset.reading.side, "values": record_of(dataset.reading.values)}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        kept.append((Parts(path, digest), dataset))
        return embedder.hold(module, num_dims, dataset, path, digest)

    result = mine_features(p, runtime, train, val, hold, network_dims(model))
    for parts, dataset in kept:
        parts.remove(distributed.slice_of(len(dataset)))
    return result


def mine_features(
    p: EasyDict,
    runtime: Runtime,
    train: Any,
    val: Any,
    hold: Callable[[Any, Path], Tensor | np.ndarray],
    dims: Sequence[int] = (),
) -> dict[str, Any]:
    """As `mine`, with a split's features `[N, D]` from `hold(dataset, path)`: in memory, or written to the path.

    `dims` are the lengths of several networks' features that stand side by side.
    """
    wanted = num_to_mine(p, train, val)
    result: dict[str, Any] = {}
    for split, dataset in (("train", train), ("val", val)):
        num = wanted[split]
        path = Path(p.pretext_dir) / f"features-{split}.npy"
        if split == "train" or val is not train:  # else the same images, which are looked at once
            features = hold(dataset, path)
            # Purity is given at up to 20 neighbors, however many are saved.
            most = num if val is not train else max(wanted.values())
            num_found = min(max(most, *PURITY_AT), len(dataset) - 1)
            indices = mine_over_ranks(features, num_found, p.neighbors, device=runtime.device, dims=dims)
        if distributed.is_main():
            save_neighbors(p[f"topk_neighbors_{split}_path"], indices[:, : num + 1], dataset.fingerprint())
            if isinstance(features, Tensor):
                _save_features(path, features)
        say(f"the {num} nearest neighbors of {len(dataset)} {split} images: {p[f'topk_neighbors_{split}_path']}")
        result |= _look(p, split, dataset, indices)
    return result


def _save_features(path: Path, features: Tensor) -> None:
    array = features.cpu().numpy()
    write_file(path, lambda file: np.save(file, array, allow_pickle=False), num_bytes=array.nbytes + 128)


def _look(p: EasyDict, split: str, dataset: Any, indices: np.ndarray) -> dict[str, Any]:
    """Draw neighbors, and with labels their purity against K; returns purity at a few K."""
    folder = Path(p.pretext_dir)
    if distributed.is_main():
        rows = torch.randperm(len(dataset), generator=generator(p.seed, "sheet"))[:SHEET_ROWS]
        shown = torch.from_numpy(indices)[rows, : SHEET_COLUMNS + 1]
        try:
            images = dataset.load(shown.flatten(), "cpu").unflatten(0, shown.shape)
            plots.image_sheet(folder / f"neighbors-{split}.png", images)
        except UnreadableImageError as error:  # features that were given need no image
            warn(f"the picture of neighbors is left out: {error}")
    if not dataset.has_labels:
        return {}
    shares = purity(indices, dataset.targets.numpy(), range(1, indices.shape[1]))
    if distributed.is_main():
        plots.purity_curve(folder / f"purity-{split}.png", shares)
    return {f"purity_{split}": {str(k): round(shares[k], 6) for k in PURITY_AT if k in shares}}


def mine_only(p: EasyDict, path: str | None) -> int:
    """Save given weights as the pretext model and mine with them; returns the exit code.

    Without a path the weights are the folder's own: its checkpoint's, or else its model's.
    Raises UserError when they would replace those of a finished run, unless the config says `overwrite`.
    """
    require(p, "transformation_kwargs", script="mining")
    runtime = Runtime.of(p)
    own = (p.pretext_checkpoint, p.pretext_model)
    advice = "check the path" if path else "name the weights with --model FILE, or train them: leave out --mine_only"
    model = get_model(p, path or next(filter(os.path.exists, own), own[0]), advice)
    train = get_train_dataset(p, None)
    val = get_val_dataset(p, classes=train.classes, reading=train.reading)
    num_to_mine(p, train, val)  # what would fail after files are removed fails before it
    if distributed.is_main():
        with usable(Path(p.pretext_dir), "set root_dir"):
            lock_folder(Path(p.pretext_dir))
    wanted = distributed.from_main(distributed.is_main() and _make_room(p, model))
    model = runtime.place(model)
    if wanted:
        save_weights(p.pretext_model, model.state_dict(), setup=p.setup)
    if isinstance(model, FeatureModel):
        model.backbone = engines.prepare(p, model.backbone, Path(p.pretext_dir), runtime.device)
    say(f"the model is {p.pretext_model}")
    return report(p, mine(p, model, runtime, train, val))


def _make_room(p: EasyDict, model: nn.Module) -> bool:
    """Remove what other weights left in the folder: features and neighbors, and the result of a run.

    Returns whether the model is to be written: a file of the user's with these very weights stays as it is.
    """
    kept = Path(p.pretext_model)
    adopt(kept.parent)
    old = get_model(p, kept).state_dict() if kept.exists() else {}
    same = bool(old) and all(torch.equal(value, old[name]) for name, value in model.state_dict().items())
    mined = [form.format(split) for split in ("train", "val") for form in PER_SPLIT]
    owned.require_own(kept.parent, mined if same else [*mined, kept.name])
    if same or not old:
        return not same or is_own(kept)
    if read_finished(kept.parent) is not None and not p.overwrite:
        raise UserError(
            f"{kept} is the model of a finished run, and the weights given are others; run_name=NAME keeps what is "
            "mined with them apart, overwrite=true replaces it"
        )
    features = [kept.parent / f"features-{split}.npy" for split in ("train", "val")]
    for path in (p.topk_neighbors_train_path, p.topk_neighbors_val_path, *features, kept.parent / RECORD):
        remove(path)
    return True


def report(p: EasyDict, result: dict[str, Any], again: bool = False) -> int:
    """Say what came out; returns the exit code 0."""
    if again:
        say(f"this run is finished; overwrite=true starts it again. Its files are in {p.pretext_dir}")
    if "loss" in result:
        say(f"last training loss {result['loss']:.4f}")
    for split in ("train", "val"):
        if f"purity_{split}" in result:
            shares = ", ".join(f"{100 * share:.2f} % at {k}" for k, share in result[f"purity_{split}"].items())
            say(f"purity of the {split} neighbors (labels only score): {shares}", "green")
    return 0
