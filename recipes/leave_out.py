"""What `--leave_out` means: which share of the images a project leaves in no cluster, and the model that does so."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clustering.leave_out import fit_leave_out
from clustering.prediction import Prediction
from losses.scan import expected_sizes
from models.loading import best_head
from models.weights import read_weights, save_weights
from recipes.project import Project
from system.console import warn


def take_leave_out(project: Project, share: float | str | None) -> None:
    """Have a project that is there leave out as this command says, 0 for none; None: as one before did."""
    if share is not None and (share or None) != project.facts["leave_out"]:
        project.write(leave_out=share or None, result=None)


def leave_out(p: Any, share: float | str, path: Path, prediction: Prediction, target: Path) -> Prediction:
    """Leave a share of the images, those that are far from all others, out of the clusters.

    Writes the model of a file, of the config `p`, to `target` as one that does the same with new images; returns the
    prediction with them left out.
    """
    num_clusters = prediction.probabilities.shape[1]
    assigned = prediction.probabilities.argmax(1)
    sizes = torch.bincount(assigned, minlength=num_clusters)
    smallest = float(expected_sizes(p.cluster_prior, sizes.cpu().double()).min())
    of_all = None if isinstance(share, str) else share
    found = fit_leave_out(prediction.features, num_clusters, of_all, p.seed, smallest)
    left_out = found(prediction.features)
    warn_of_emptied(torch.bincount(assigned[~left_out], minlength=num_clusters), sizes)
    read = read_weights(path)
    state = read.state | {f"leave_out.{key}": value for key, value in found.state_dict().items()}
    save_weights(target, {"model": state, "head": best_head(read)}, setup=p.setup)
    return replace(prediction, left_out=left_out)


def warn_of_emptied(kept: Tensor, sizes: Tensor) -> None:
    """Warn of clusters of `sizes` [K] images of which `kept` [K], none, are not left out."""
    emptied = ((kept == 0) & (sizes > 0)).nonzero()[:, 0].tolist()
    if emptied:
        warn(
            f"all images of cluster {', '.join(map(str, emptied))} are left out: they are far fewer than a cluster is "
            "expected to have; cluster_prior=power:A expects smaller ones"
        )
