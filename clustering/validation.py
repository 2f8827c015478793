"""Watching a clustering stage without labels: the SCAN validation loss of every head, and what is warned of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clustering.features import Embedder, head_probabilities
from clustering.scores import count_classes, row_blocks, score_clusters
from losses.scan import LOWEST_LOG, UNIFORM, SCANTerms, entropy, expected_sizes
from models.models import ClusteringModel
from system import distributed
from system.console import warn

VALIDATION_COLUMNS = 6  # the sample itself and 5 neighbors
FEWER = 0.9  # of the confident samples of self-labeling's first epoch; fewer are warned of


def validation_loss(
    probabilities: Tensor,
    neighbors: Tensor | np.ndarray,
    block_bytes: int | None = None,
    cluster_prior: str | Sequence[float] = UNIFORM,
) -> SCANTerms:
    """Return the SCAN validation loss of one head: (total, consistency, entropy), scalars on the device.

    probabilities [N, C] of the validation images; neighbors int64 [N, >= 6], of which the first 6 columns (the sample
    itself and 5 neighbors) count. Consistency is the mean of -log(p_i·p_k) over all pairs; the total is that minus the
    entropy of the mean probability, with a prior as in the loss. No label is used. Sums are in float64 where the device
    has it; `block_bytes` changes the speed only.
    """
    device = probabilities.device
    wide = torch.float32 if device.type == "mps" else torch.float64
    columns = torch.as_tensor(neighbors)[:, :VALIDATION_COLUMNS]
    num_samples, num_clusters = probabilities.shape
    logs, mass = torch.zeros((), dtype=wide, device=device), torch.zeros(num_clusters, dtype=wide, device=device)
    for rows in row_blocks(num_samples, 4 * num_clusters * (columns.shape[1] + 1), device, block_bytes):
        anchors = probabilities[rows].float()
        others = probabilities[columns[rows].to(device)].float()
        dots = (others @ anchors.unsqueeze(2)).squeeze(2)
        logs += dots.clamp(max=1.0).log().clamp(min=LOWEST_LOG).sum(dtype=wide)
        mass += anchors.sum(0, dtype=wide)
    consistency = -logs / columns.numel()
    spread = entropy(mass / num_samples, cluster_prior)
    return SCANTerms(consistency - spread, consistency, spread)


@dataclass(frozen=True)
class HeadScores:
    """A head's validation loss (no label used), its cluster sizes int64 `[C]`, and what labels say of it, if any."""

    head: int
    loss: float
    cluster_sizes: Tensor
    monitored: dict[str, float]


class Validator:
    """Scores every head of a model on the validation split by the SCAN validation loss.

    `neighbors` int64 `[N, ≥ 6]` are the split's; `frozen` says that the backbone stays as it is; `cluster_prior` says
    how large clusters are expected to be.
    """

    def __init__(
        self,
        val: Any,
        neighbors: Tensor,
        embedder: Embedder,
        frozen: bool = False,
        cluster_prior: str | Sequence[float] = UNIFORM,
    ) -> None:
        self.val, self.neighbors, self.embedder, self.frozen = val, neighbors, embedder, frozen
        self.cluster_prior = cluster_prior
        self._features: Tensor | None = None

    def _embed(self, model: ClusteringModel) -> Tensor:
        """Backbone features `[N, D]`; those of a frozen backbone are computed once."""
        if self._features is None or not self.frozen:
            dtype = self.embedder.runtime.training
            self._features = self.embedder.embed(model.backbone, self.val, dtype=dtype, desc="validation")
        return self._features

    def best_head(self, model: ClusteringModel) -> HeadScores:
        """The head with the lowest loss, the lower number in a tie."""
        losses, clusters = [], []
        for probabilities in head_probabilities(model, self._embed(model)):
            losses.append(validation_loss(probabilities, self.neighbors, cluster_prior=self.cluster_prior).total.item())
            clusters.append(probabilities.argmax(1))
            num_clusters = probabilities.shape[1]
        head = min(range(len(losses)), key=lambda i: (math.isnan(losses[i]), losses[i]))
        sizes = torch.bincount(clusters[head], minlength=num_clusters).cpu()
        best = HeadScores(head, losses[head], sizes, {})
        if self.val.has_labels:
            scores = score_clusters(clusters[head], self.val.targets, len(sizes), count_classes(self.val))
            best.monitored["acc_from_labels"] = round(scores["acc"], 4)
        return distributed.from_main(best)  # ranks that rounded differently would part ways over it


def warn_of_collapse(sizes: Tensor, num_clusters: int, cluster_prior: str | Sequence[float] = UNIFORM) -> None:
    """Say, while it happens, when clusters die out or everything falls into one; `sizes` is int64 `[C]`.

    What is warned of is an entropy of the sizes far below the one of the sizes that the prior expects.
    """
    if num_clusters == 1:
        return
    used = int((sizes > 0).sum())
    share = sizes.double() / sizes.sum()
    expected = expected_sizes(cluster_prior, share) / num_clusters
    entropy_ratio = float(torch.special.entr(share).sum() / torch.special.entr(expected).sum())
    if entropy_ratio < 0.2:
        warn(
            f"{100 * float(share.max()):.0f} % of the validation images are in one cluster: training has collapsed. A "
            "higher criterion_kwargs.entropy_weight, a lower learning rate or a longer pretext task usually helps"
        )
    elif used < num_clusters and num_clusters <= int(sizes.sum()):
        warn(f"{num_clusters - used} of {num_clusters} clusters are empty; early in training this often passes")
    elif entropy_ratio < 0.5:
        warn(
            "clusters are of very unequal size; if your classes are not, raise criterion_kwargs.entropy_weight; "
            "if they are, say so with cluster_prior"
        )


def warn_of_lost_confidence(confident: Sequence[int]) -> None:
    """Say when the last epoch of self-labeling had far fewer confident samples than the first; `confident` counts them.

    Labels that hold make further samples confident; views too weak to teach lose them, and clusters with them, although
    class balancing keeps every cluster in use.
    """
    if confident and confident[-1] < FEWER * confident[0]:
        warn(
            f"{confident[-1]:,} samples were confident in this epoch, {confident[0]:,} in the first, and their number "
            "should grow: clusters are being lost. Stronger views (augmentation_strategy: ours) usually help; the "
            "model that self-labeling began with may serve better"
        )
