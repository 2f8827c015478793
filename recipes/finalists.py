"""Trained models of which one is kept: which ones the stages left, and what is known of them without labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clustering.judge import evenness, neighbor_agreement
from clustering.prediction import Prediction, predict
from losses.scan import UNIFORM
from recipes.project import Project
from recipes.refining import STAGE as REFINING
from training.folder import MODEL
from utils import clusters
from utils.common_config import get_embedder
from utils.setups import SETUPS

BEST = "model-best.pth.tar"
NAMES = {"scan": "scan", "best": "self-labeling, best epoch", "last": "self-labeling, last epoch"}


@dataclass(frozen=True)
class Finalist:
    """A trained model that may be kept: its stage and file, what it says of all images, and its cluster_prior."""

    name: str
    stage: str
    path: Path
    prediction: Prediction
    cluster_prior: str | Sequence[float] = UNIFORM


def refined(project: Project, dataset: Any, runtime: Any) -> list[Finalist]:
    """What self-labeling left: its best epoch, and where it is finished its last, if that is another one.

    Where more minutes went on from a finished run and were over, MODEL is that run's, and the last of nothing.
    """
    result = clusters.read_result(Path(project.load(REFINING).selflabel_dir))
    files = {"best": BEST}
    if result and result.get("best_loss") != result.get("last_loss"):
        files["last"] = MODEL
    found = [find_finalist(project, name, REFINING, file, dataset, runtime) for name, file in files.items()]
    return [finalist for finalist in found if finalist is not None]


def has_models(project: Project) -> bool:
    """Whether the stages of a clustering from scratch left a model of clusters."""
    files = (("scan_dir", MODEL), ("selflabel_dir", BEST), ("selflabel_dir", MODEL))
    p = project.load(REFINING)
    return any(Path(p[folder], name).exists() for folder, name in files)


def find_finalist(project: Project, name: str, stage: str, file: str, dataset: Any, runtime: Any) -> Finalist | None:
    """The model that a stage left in a file, by its key in NAMES; None where there is none."""
    p = project.load(stage)
    path = Path(p[f"{SETUPS[stage].stage}_dir"]) / file
    if not path.exists():
        return None
    prediction = predict(*clusters.load_for_prediction(p, path, runtime), dataset, get_embedder(p, runtime))
    return Finalist(NAMES[name], stage, path, prediction, p.cluster_prior)


def score_finalist(finalist: Finalist, neighbors: Tensor, dataset: Any) -> dict[str, Any]:
    """The label-free scores of a model's clusters on neighbors int64 `[N, k + 1]`, and ACC where there are labels."""
    assigned = finalist.prediction.probabilities.argmax(1).cpu()
    sizes = torch.bincount(assigned, minlength=finalist.prediction.probabilities.shape[1])
    row: dict[str, Any] = {
        "name": finalist.name,
        "neighbors": neighbor_agreement(assigned, neighbors),
        "evenness": evenness(sizes, finalist.cluster_prior),
        "used": int((sizes > 0).sum()),
        "smallest": int(sizes.min()),
        "sizes": sizes.tolist(),
    }
    scores = clusters.score_prediction(finalist.prediction, dataset)  # they only tell how good it was
    if scores:
        row["acc_from_labels"] = round(scores["acc"], 4)
    return row
