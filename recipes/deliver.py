"""What a clustering hands out: the model that label-free scores prefer, never one that is known to be worse."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from easydict import EasyDict
from torch import Tensor

from clustering.judge import NEAREST, Scores, choose, evenness, explain, neighbor_agreement
from clustering.prediction import OTHER, Prediction, predict, predict_features
from recipes.leave_out import leave_out
from recipes.project import Project
from recipes.record import DELIVERED
from recipes.refining import STAGE as REFINING
from system.files import write_file, write_text
from training.folder import CONFIG, MODEL, RECORD, to_plain
from utils import clusters, pretext
from utils.common_config import get_embedder
from utils.saved import relative_config
from utils.schema import SETUPS

BEST = "model-best.pth.tar"
NAMES = {"scan": "scan", "best": "self-labeling, best epoch", "last": "self-labeling, last epoch"}


TRUST_IN_ONE = (
    (0.8, "similar images nearly always share a cluster: expect most clusters to hold one kind"),
    (
        0.5,
        "similar images often share a cluster: expect clusters that are split or mixed; try another number of clusters",
    ),
    (-1.0, "similar images seldom share a cluster: take this as a guess; try --features embedded, or more images"),
)
"""From which agreement of neighbors on what to expect, where there is one way of clustering and not several."""


@dataclass(frozen=True)
class Finalist:
    """A trained model that may be handed out: its stage, its file, and what it says of all images."""

    name: str
    stage: str
    path: Path
    prediction: Prediction


@dataclass(frozen=True)
class Delivery:
    """What was handed out and why: the stage, its prediction, all candidates with their scores, and the verdict."""

    stage: str
    path: Path
    prediction: Prediction
    candidates: list[dict[str, Any]]
    reason: str
    trust: str


def deliver(project: Project, dataset: Any, runtime: Any) -> Delivery:
    """Choose among what the stages left, and write the winner to the project's folder with its config and record."""
    if "candidates" in project.stages:
        found = _from_features(project, dataset, runtime)
    else:
        found = _from_scratch(project, dataset, runtime)
    source = found.path.parent
    if project.facts["leave_out"]:
        left = leave_out(project, found.path, found.prediction, project.folder / MODEL, found.stage)
        found = replace(found, prediction=left)
    else:
        data = found.path.read_bytes()
        write_file(project.folder / MODEL, lambda file: file.write(data), num_bytes=len(data), setup=found.stage)
    content = relative_config(source / CONFIG, project.folder)
    write_text(project.folder / CONFIG, yaml.safe_dump(content, sort_keys=False), record=True)
    write_text(project.folder / RECORD, (source / RECORD).read_text(encoding="utf-8"), record=True)
    assert (MODEL, CONFIG, RECORD) == DELIVERED
    return found


def _from_features(project: Project, dataset: Any, runtime: Any) -> Delivery:
    """The best by the judge of all clusterings of features, and of what refining made of the one it chose.

    All are compared on the same neighbors, those in the features.
    """
    p = project.load("candidates")
    path = Path(p.candidates_model)
    result = clusters.read_result(path.parent)
    finalists = _refined(project, dataset, runtime) if REFINING in project.stages else []
    neighbors = pretext.load_split_neighbors(p, "train", dataset, min(NEAREST, len(dataset) - 1))
    began = {"refines": result["chosen"]}
    rows = [*result["candidates"], *(score_finalist(one, neighbors, dataset) | began for one in finalists)]
    chosen, reason = choose_row(rows)
    if chosen >= len(result["candidates"]):
        winner = finalists[chosen - len(result["candidates"])]
        return Delivery(winner.stage, winner.path, winner.prediction, rows, reason, result["trust"])
    p = EasyDict({**p, "head_kwargs": clusters.read_head(p, path)})
    model, head = clusters.load_clustering(p, path)
    prediction = predict_features(model, head, pretext.load_features(p, "train", dataset))
    if finalists:
        reason += "; what refining made of it is no better by this rule, and is not used"
    return Delivery("candidates", path, prediction, rows, reason, result["trust"])


def _from_scratch(project: Project, dataset: Any, runtime: Any) -> Delivery:
    """The model whose clusters the neighbors share most, of those that have not emptied clusters."""
    scan = _finalist(project, "scan", "scan", MODEL, dataset, runtime)
    finalists = [*([scan] if scan else []), *_refined(project, dataset, runtime)]
    neighbors = pretext.load_split_neighbors(project.load("simclr"), "train", dataset, min(NEAREST, len(dataset) - 1))
    rows = [score_finalist(finalist, neighbors, dataset) for finalist in finalists]
    chosen, reason = choose_row(rows)
    winner = finalists[chosen]
    trust = trust_in_one(rows[chosen]["neighbors"], rows[chosen]["used"])
    return Delivery(winner.stage, winner.path, winner.prediction, rows, reason, trust)


def score_finalist(finalist: Finalist, neighbors: Tensor, dataset: Any) -> dict[str, Any]:
    """The label-free scores of a model's clusters on neighbors int64 `[N, k + 1]`, and ACC where there are labels."""
    assigned = finalist.prediction.probabilities.argmax(1).cpu()
    sizes = torch.bincount(assigned, minlength=finalist.prediction.probabilities.shape[1])
    row: dict[str, Any] = {
        "name": finalist.name,
        "neighbors": neighbor_agreement(assigned, neighbors),
        "evenness": evenness(sizes),
        "used": int((sizes > 0).sum()),
        "smallest": int(sizes.min()),
        "sizes": sizes.tolist(),
    }
    scores = clusters.score_prediction(finalist.prediction, dataset)  # they only tell how good it was
    if scores:
        row["acc_from_labels"] = round(scores["acc"], 4)
    return row


def choose_row(rows: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """The position of the best of several clusterings by the judge's rule, and why; other scores may be missing.

    What was refined is ranked as what it began as: refining the vote, it has the vote's lead.
    """
    table = [Scores(**{key: row.get(key, math.nan) for key in Scores._fields}) for row in rows]
    ranked = [scores._replace(name=row.get("refines", row["name"])) for scores, row in zip(table, rows, strict=True)]
    chosen = choose(ranked)
    return chosen, explain(table, chosen)


def _refined(project: Project, dataset: Any, runtime: Any) -> list[Finalist]:
    """What self-labeling left: its best epoch, and where it is finished its last, if that is another one.

    Where more minutes went on from a finished run and were over, MODEL is that run's, and the last of nothing.
    """
    result = clusters.read_result(Path(project.load(REFINING).selflabel_dir))
    files = {"best": BEST}
    if result and result.get("best_loss") != result.get("last_loss"):
        files["last"] = MODEL
    found = [_finalist(project, name, REFINING, file, dataset, runtime) for name, file in files.items()]
    return [finalist for finalist in found if finalist is not None]


def _finalist(project: Project, name: str, stage: str, file: str, dataset: Any, runtime: Any) -> Finalist | None:
    p = project.load(stage)
    path = Path(p[f"{SETUPS[stage].stage}_dir"]) / file
    if not path.exists():
        return None
    prediction = predict(*clusters.load_for_prediction(p, path, runtime), dataset, get_embedder(p, runtime))
    return Finalist(NAMES[name], stage, path, prediction)


def trust_in_one(neighbors: float, used: int) -> str:
    """How far to trust one model of a network trained on these images alone, by the table TRUST_IN_ONE."""
    if used == 1:
        return "all images are in one cluster, which says nothing about them; try --features embedded, or more images"
    return next(sentence for least, sentence in TRUST_IN_ONE if neighbors >= least)


def verdict_of(found: Delivery) -> dict[str, Any]:
    """The verdict for records and the page."""
    probabilities = found.prediction.probabilities
    assigned = found.prediction.clusters
    in_use = [len(assigned[assigned != OTHER].unique()), probabilities.shape[1]]
    verdict: dict[str, Any] = {
        "candidates": found.candidates,
        "reason": found.reason,
        "in_use": in_use,
        "trust": found.trust,
    }
    if found.prediction.left_out is not None:
        verdict["left_out"] = int(found.prediction.left_out.sum())
    return to_plain(verdict)
