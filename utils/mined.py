"""What a pretext run left for the stages after it: features and neighbors, which must be of the same images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from easydict import EasyDict
from torch import Tensor

from clustering.neighbors import load_neighbors, mine_over_ranks
from clustering.validation import VALIDATION_COLUMNS
from system import distributed
from system.bounded import map_array
from system.console import say
from system.errors import UserError
from system.runtime import Runtime
from utils.common_config import get_embedder
from utils.setups import how_to_run


def load_features(p: EasyDict, split: str, dataset: Any, dim: int | None = None) -> Tensor:
    """A split's features float32 `[N, D]` as its pretext run left them; raises UserError when they do not fit it.

    `dim` is the D of the backbone, where a model is made that takes its features.
    """
    path = Path(p.pretext_dir) / f"features-{split}.npy"
    load_split_neighbors(p, split, dataset, 1)  # of the same images, or this says what is wrong
    features = map_array(path)
    if len(features) != len(dataset):
        raise UserError(f"{path} holds features of {len(features)} images, but there are {len(dataset)}; mine again")
    if dim is not None and features.shape[1] != dim:
        raise UserError(
            f"the features in {p.pretext_dir} have {features.shape[1]} dimensions, and those of backbone {p.backbone} "
            f"{dim}; the model needs the latter: mine again with mine_features=backbone"
        )
    return torch.from_numpy(np.array(features, dtype=np.float32))


def load_split_neighbors(p: EasyDict, split: str, dataset: Any, num_neighbors: int) -> Tensor:
    """A split's neighbors int64 `[N, num_neighbors + 1]`; raises UserError when they are missing or do not fit."""
    path = p[f"topk_neighbors_{split}_path"]
    advice = how_to_run("pretext")
    if Path(p.pretext_model).exists():
        advice = f"mine with the model that is there, by the command that trained it and --mine_only; or {advice}"
    return torch.from_numpy(load_neighbors(path, len(dataset), num_neighbors, dataset.fingerprint(), advice))


def load_train_neighbors(p: EasyDict, dataset: Any) -> Tensor:
    """The training split's neighbors, `num_neighbors` of them."""
    return load_split_neighbors(p, "train", dataset, p.num_neighbors)


def load_val_neighbors(p: EasyDict, dataset: Any) -> Tensor:
    """The validation split's neighbors, as many as the validation loss looks at."""
    return load_split_neighbors(p, "val", dataset, num_val_neighbors(dataset))


def num_val_neighbors(dataset: Any) -> int:
    """Neighbors of each image that the validation loss looks at."""
    return min(VALIDATION_COLUMNS, len(dataset)) - 1


def find_val_neighbors(p: EasyDict, dataset: Any, model: Any, runtime: Runtime) -> Tensor:
    """`load_val_neighbors`, or where no pretext task left any, as next to a released scan model, mined with `model`."""
    path = p.topk_neighbors_val_path
    if distributed.from_main(Path(path).exists()):
        return load_val_neighbors(p, dataset)
    say(f"{path} is missing; the validation loss uses neighbors in the scan model's own features instead")
    features = get_embedder(p, runtime).embed(model.backbone, dataset, desc="features of val")
    return torch.from_numpy(mine_over_ranks(features, num_val_neighbors(dataset), p.neighbors))
