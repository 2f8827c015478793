"""What a clustering hands out: the model that label-free scores prefer, never one that is known to be worse."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from easydict import EasyDict

from clustering.judge import evenness, neighbor_agreement, sound_of
from clustering.prediction import Prediction, predict
from recipes.project import DELIVERED, Project
from system.files import write_file, write_text
from training.folder import CONFIG, MODEL, RECORD, to_plain
from utils import clusters, pretext
from utils.common_config import get_embedder
from utils.saved import relative_config
from utils.schema import SETUPS

BEST = "model-best.pth.tar"
NAMES = {"scan": "scan", "best": "self-labeling, best epoch", "last": "self-labeling, last epoch"}


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
        found = _from_features(project, dataset)
    else:
        found = _from_scratch(project, dataset, runtime)
    source = found.path.parent
    data = found.path.read_bytes()
    write_file(project.folder / MODEL, lambda file: file.write(data), num_bytes=len(data), setup=found.stage)
    content = relative_config(source / CONFIG, project.folder)
    write_text(project.folder / CONFIG, yaml.safe_dump(content, sort_keys=False), record=True)
    write_text(project.folder / RECORD, (source / RECORD).read_text(encoding="utf-8"), record=True)
    assert (MODEL, CONFIG, RECORD) == DELIVERED
    return found


def _from_features(project: Project, dataset: Any) -> Delivery:
    """The judge's choice among the clusterings of features, on the features that are there."""
    p = project.load("candidates")
    path = Path(p.candidates_model)
    p = EasyDict({**p, "head_kwargs": clusters.read_head(p, path)})
    model, head = clusters.load_clustering(p, path)
    features = pretext.load_features(p, "train", dataset)
    with torch.no_grad():
        prediction = Prediction(features, torch.softmax(model.cluster_head[head](features), dim=1))
    result = clusters.read_result(path.parent)
    return Delivery("candidates", path, prediction, result["candidates"], result["reason"], result["trust"])


def _from_scratch(project: Project, dataset: Any, runtime: Any) -> Delivery:
    """The model whose clusters the neighbors share most, of those that have not emptied clusters."""
    finalists = [
        finalist
        for name, stage, file in (
            ("scan", "scan", MODEL),
            ("best", "selflabel", BEST),
            ("last", "selflabel", MODEL),
        )
        if (finalist := _finalist(project, name, stage, file, dataset, runtime)) is not None
    ]
    p = project.load("simclr")
    neighbors = pretext.load_split_neighbors(p, "train", dataset, min(5, len(dataset) - 1))
    rows = []
    for finalist in finalists:
        assigned = finalist.prediction.probabilities.argmax(1).cpu()
        sizes = torch.bincount(assigned, minlength=finalist.prediction.probabilities.shape[1])
        row: dict[str, Any] = {
            "name": finalist.name,
            "neighbors": neighbor_agreement(assigned, neighbors),
            "evenness": evenness(sizes),
            "used": int((sizes > 0).sum()),
            "sizes": sizes.tolist(),
        }
        scores = clusters.score_prediction(finalist.prediction, dataset)
        if scores:
            row["acc_from_labels"] = round(scores["acc"], 4)
        rows.append(row)
    kept = sound_of([row["used"] for row in rows], [row["evenness"] for row in rows])
    chosen = max(kept, key=lambda i: rows[i]["neighbors"])
    winner = finalists[chosen]
    reason = (
        f"{winner.name}: of {len(rows)} models, neighbors share a cluster most often "
        f"({rows[chosen]['neighbors']:.2f}, adjusted for chance)"
    )
    if len(kept) < len(rows):
        reason += f", {len(rows) - len(kept)} of which left clusters nearly empty"
    trust = trust_in_one(rows[chosen]["neighbors"], rows[chosen]["used"], len(rows[chosen]["sizes"]))
    return Delivery(winner.stage, winner.path, winner.prediction, rows, reason, trust)


def _finalist(project: Project, name: str, stage: str, file: str, dataset: Any, runtime: Any) -> Finalist | None:
    p = project.load(stage)
    path = Path(p[f"{SETUPS[stage].stage}_dir"]) / file
    if not path.exists() or (stage == "selflabel" and not clusters.read_result(path.parent)):
        return None  # refining was left out
    prediction = predict(*clusters.load_for_prediction(p, path, runtime), dataset, get_embedder(p, runtime))
    return Finalist(NAMES[name], stage, path, prediction)


def trust_in_one(neighbors: float, used: int, num_clusters: int) -> str:
    """How far to trust one model of a network trained on these images alone, by how often neighbors share a cluster."""
    if used == 1:
        return "all images are in one cluster, which says nothing about them; try --features embedded, or more images"
    empty = f"; {used} of {num_clusters} clusters are in use, so fewer may do" if used < num_clusters else ""
    if neighbors >= 0.8:
        return f"similar images nearly always share a cluster: expect most clusters to hold one kind{empty}"
    if neighbors >= 0.5:
        return f"similar images often share a cluster: expect clusters that are split or mixed{empty}"
    return (
        f"similar images seldom share a cluster: take this as a guess; try --features embedded, or more images{empty}"
    )


def verdict_of(found: Delivery) -> dict[str, Any]:
    """The verdict for records and the page."""
    return to_plain({"candidates": found.candidates, "reason": found.reason, "trust": found.trust})
