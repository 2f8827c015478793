"""What a clustering model says of a split, or of files: probabilities, features, each cluster's most typical image."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clustering.features import Embedder
from data.files.reading import Reading
from data.files.unseen import open_block

PROTOTYPE_CANDIDATES = 10
BLOCK = 8192  # feature rows at a time
OTHER = -1  # the cluster of what belongs in none


def find_prototypes(
    features: Tensor | np.ndarray, probabilities: Tensor, kept: np.ndarray | None = None
) -> dict[int, int]:
    """Return the index of the sample that stands for each cluster; empty clusters are left out.

    Among the 10 most confident samples assigned to a cluster (fewer if there are fewer; equal confidence goes by
    index), the one whose feature (backbone, [N, D], not normalized) is nearest in L2 to the mean of theirs. Only `kept`
    samples, bool [N], count; None: all.
    """
    confidence, clusters = (x.cpu().numpy() for x in probabilities.max(1))
    if kept is not None:
        clusters = np.where(kept, clusters, OTHER)
    order = np.lexsort((-confidence, clusters))  # stable, so equal confidence stays in index order
    first = np.searchsorted(clusters[order], np.arange(probabilities.shape[1] + 1))
    chosen = {}
    for cluster, (start, end) in enumerate(pairwise(first)):
        candidates = order[start : min(end, start + PROTOTYPE_CANDIDATES)]
        if len(candidates):
            own = torch.as_tensor(features[candidates]).cpu().double()
            chosen[cluster] = int(candidates[int((own - own.mean(0)).norm(dim=1).argmin())])
    return chosen


@dataclass(frozen=True)
class Prediction:
    """What a model says of a split: backbone features `[N, D]` and its best head's probabilities `[N, C]`.

    `left_out` bool `[N]` marks the images that belong in no cluster; None: all belong in one.
    """

    features: Tensor
    probabilities: Tensor
    left_out: Tensor | None = None

    @property
    def clusters(self) -> Tensor:
        """The cluster of each image, int64 `[N]`; OTHER where it is left out."""
        clusters = self.probabilities.argmax(1)
        return clusters if self.left_out is None else clusters.masked_fill(self.left_out, OTHER)

    @property
    def confidence(self) -> Tensor:
        """The probability of that cluster, float32 `[N]`; 0 where an image is left out."""
        confidence = self.probabilities.float().max(1).values
        return confidence if self.left_out is None else confidence.masked_fill(self.left_out, 0)

    def cpu(self) -> "Prediction":
        """The same on the CPU, features as float32."""
        left_out = None if self.left_out is None else self.left_out.cpu()
        return Prediction(self.features.float().cpu(), self.probabilities.cpu(), left_out)


@torch.no_grad()
def predict(model: Any, head: int, dataset: Any, embedder: Embedder) -> Prediction:
    """Apply a clustering model to a split, in the inference precision."""
    model = embedder.runtime.place(model)
    return predict_features(model, head, embedder.embed(model.backbone, dataset, desc="evaluation"))


@torch.no_grad()
def predict_features(model: Any, head: int, features: Tensor) -> Prediction:
    """Apply the head of a clustering model to features `[N, D]`, on the device that they are on."""
    own, leave_out = (  # the model stays where it is
        module and copy.deepcopy(module).to(features.device) for module in (model.cluster_head[head], model.leave_out)
    )
    return Prediction(features, torch.softmax(own(features), dim=1), leave_out and leave_out(features))


class Block(NamedTuple):
    """What a model says of some image files: of those that can be read, and why others (by path) cannot.

    `prediction` is None when no file can be read.
    """

    paths: list[str]
    prediction: Prediction | None
    unreadable: dict[str, str]


def predict_rows(model: Any, head: int, paths: Sequence[str], features: Tensor) -> Iterator[Block]:
    """Apply the head of a clustering model to features `[N, D]` of images, block by block."""
    for start in range(0, len(paths), BLOCK):
        part = slice(start, start + BLOCK)
        yield Block(list(paths[part]), predict_features(model, head, features[part]), {})


def predict_files(model: Any, head: int, paths: Sequence[str], reading: Reading, embedder: Embedder) -> Block:
    """Apply a clustering model to files of this rank alone; what it says is on the CPU."""
    dataset, readable, unreadable = open_block(paths, reading)
    if dataset is None:
        return Block([], None, unreadable)
    found = predict(model, head, dataset, replace(embedder, alone=True))
    return Block(readable, found.cpu(), unreadable)
