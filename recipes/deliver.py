"""Which model a clustering keeps: chosen without labels, and never one that lost clusters which another one kept."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from easydict import EasyDict
from torch import Tensor

from clustering.judge import NEAREST, Scores, choose, explain, is_even, neighbor_agreement, sound_of
from clustering.prediction import OTHER, Prediction, predict_features
from recipes.finalists import Finalist, find_finalist, has_models, refined, score_finalist
from recipes.leave_out import leave_out
from recipes.project import Project
from recipes.record import DELIVERED
from recipes.refining import STAGE as REFINING
from system.files import write_file, write_text
from training.comparison import to_plain
from training.folder import CONFIG, MODEL
from training.record import RECORD, read_network, read_record
from utils import clusters, mined
from utils.common_config import get_val_dataset
from utils.saved import relative_config

FROM_SCRATCH = "from scratch"  # of the candidates, what competes with pretrained features
ADVICE = "try --features embedded, or more images"
TRUST_IN_ONE = (
    (0.8, "similar images nearly always share a cluster: expect most clusters to hold one kind"),
    (
        0.5,
        "similar images often share a cluster: expect clusters that are split or mixed; try another number of clusters",
    ),
    (-math.inf, f"similar images seldom share a cluster: take this as a guess; {ADVICE}"),
)
"""From which agreement of neighbors on what to expect, where there is one way of clustering and not several."""


@dataclass(frozen=True)
class Delivery:
    """What was kept and why: whose stage, its prediction, all candidates with their scores, and the verdict."""

    project: Project
    dataset: Any
    stage: str
    path: Path
    prediction: Prediction
    candidates: list[dict[str, Any]]
    reason: str
    trust: str


def deliver(project: Project, runtime: Any) -> Delivery:
    """Choose among what the stages left, and write the winner to the project's folder with its config and record."""
    dataset = get_val_dataset(project.load(project.stages[-1]))
    if "candidates" in project.stages:
        found = from_features(project, dataset, runtime)
        if project.rival and has_models(project.rival):
            found = _between_spaces(found, project.rival, runtime)
    else:
        found = from_scratch(project, dataset, runtime)
    source = found.path.parent
    if project.facts["leave_out"]:
        p = found.project.load(found.stage)
        left = leave_out(p, project.facts["leave_out"], found.path, found.prediction, project.folder / MODEL)
        found = replace(found, prediction=left)
    else:
        data = found.path.read_bytes()
        write_file(project.folder / MODEL, lambda file: file.write(data), num_bytes=len(data), setup=found.stage)
    content = relative_config(source / CONFIG, project.folder)
    write_text(project.folder / CONFIG, yaml.safe_dump(content, sort_keys=False), record=True)
    record = read_record(source)
    if network := read_network(Path(found.project.load(found.stage).pretext_dir)):
        record["backbone"] = network  # what it was trained with, its license
    write_text(project.folder / RECORD, json.dumps(record, indent=1) + "\n", record=True)
    assert (MODEL, CONFIG, RECORD) == DELIVERED
    return found


def from_features(project: Project, dataset: Any, runtime: Any) -> Delivery:
    """The best by the judge of all clusterings of features, and of what refining made of the one it chose.

    All are compared on the same neighbors, those in the features.
    """
    p = project.load("candidates")
    path = Path(p.candidates_model)
    result = clusters.read_result(path.parent)
    finalists = refined(project, dataset, runtime) if REFINING in project.stages else []
    neighbors = neighbors_of(project, dataset)
    began = {"refines": result["chosen"]}
    rows = [*result["candidates"], *(score_finalist(one, neighbors, dataset) | began for one in finalists)]
    chosen, reason = choose_row(rows)
    if chosen >= len(result["candidates"]):
        winner = finalists[chosen - len(result["candidates"])]
        return Delivery(project, dataset, winner.stage, winner.path, winner.prediction, rows, reason, result["trust"])
    p = EasyDict({**p, "head_kwargs": clusters.read_head(p, path)})
    model, head = clusters.load_clustering(p, path)
    prediction = predict_features(model, head, mined.load_features(p, "train", dataset))
    if finalists:
        reason += "; what refining made of it is no better by this rule, and is not used"
    return Delivery(project, dataset, "candidates", path, prediction, rows, reason, result["trust"])


Chooser = Callable[[Sequence[Mapping[str, Any]]], tuple[int, str]]


def from_scratch(project: Project, dataset: Any, runtime: Any, choose_one: Chooser | None = None) -> Delivery:
    """One of the models that the stages left, by default as `choose_last` says."""
    scan = find_finalist(project, "scan", "scan", MODEL, dataset, runtime)
    finalists = [*([scan] if scan else []), *refined(project, dataset, runtime)]
    neighbors = neighbors_of(project, dataset)
    rows = [score_finalist(finalist, neighbors, dataset) for finalist in finalists]
    chosen, reason = (choose_one or choose_last)(rows)
    winner = finalists[chosen]
    # Trust is in the features: of the models they gave, the one that neighbors agree with most says how good they are.
    used, num_clusters = rows[chosen]["used"], len(rows[chosen]["sizes"])
    trust = trust_in_one(max(row["neighbors"] for row in rows), used, num_clusters)
    return Delivery(project, dataset, winner.stage, winner.path, winner.prediction, rows, reason, trust)


def _between_spaces(found: Delivery, rival: Project, runtime: Any) -> Delivery:
    """What was found in pretrained features or by a network from scratch: what has more support in both spaces."""
    # By neighbors they then compete, so by neighbors the rival's model is chosen: so it was measured.
    other = from_scratch(rival, get_val_dataset(rival.load(REFINING)), runtime, choose_row)
    spaces = [neighbors_of(one.project, one.dataset) for one in (found, other)]
    finalists = [
        Finalist("", one.stage, one.path, one.prediction, one.project.load(one.stage).cluster_prior)
        for one in (found, other)
    ]
    scores = [score_finalist(finalist, spaces[0], found.dataset) for finalist in finalists]
    supports = [support(one.prediction.clusters.cpu(), spaces) for one in (found, other)]
    kept = sound_of([row["used"] for row in scores], [row["evenness"] for row in scores])
    rows = [*found.candidates, {**scores[1], "name": FROM_SCRATCH}]
    name = found.reason.partition(":")[0]
    before, now = (f"{value:.3f}" for value in supports)
    more = f"neighbors share a cluster {{}} often ({now} and {before} in the mean of both kinds of features)"
    if max(kept, key=lambda i: supports[i]) == 1:
        why = f"{more.format('more')} than with {name}" if 0 in kept else f"{name} left clusters nearly empty"
        trust = other.trust.replace(ADVICE, "try more images")  # those features were worse
        return replace(other, candidates=rows, reason=f"{FROM_SCRATCH}: {why}", trust=trust)
    why = more.format("less") if 1 in kept else "clusters were left nearly empty"
    return replace(found, candidates=rows, reason=f"{found.reason}; {FROM_SCRATCH}, {why}")


def support(clusters: Tensor, spaces: Sequence[Tensor]) -> float:
    """How often neighbors share a cluster, adjusted for chance, in the mean of several neighbor tables [N, >= 6]."""
    return sum(neighbor_agreement(clusters, neighbors) for neighbors in spaces) / len(spaces)


def neighbors_of(project: Project, dataset: Any) -> Tensor:
    """The nearest neighbors int64 [N, k + 1] in the features of a project."""
    p = project.load(project.stages[0])
    return mined.load_split_neighbors(p, "train", dataset, min(NEAREST, len(dataset) - 1))


def choose_row(rows: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """The position of the best of several clusterings by the judge's rule, and why; other scores may be missing.

    What was refined is ranked as what it began as: refining the vote, it has the vote's lead.
    """
    table = [Scores(**{key: row.get(key, math.nan) for key in Scores._fields}) for row in rows]
    ranked = [scores._replace(name=row.get("refines", row["name"])) for scores, row in zip(table, rows, strict=True)]
    chosen = choose(ranked)
    return chosen, explain(table, chosen)


def choose_last(rows: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """The position of the last of the stages' clusterings, in the order of training, that has not collapsed, and why.

    Where all have, it is the first. Neighbors in the pretext features do not choose here: SCAN is trained to agree with
    them, and self-labeling goes beyond. On CIFAR-10 its validation loss rises while accuracy rises by 4 to 10 points.
    """
    kept = sound_of([row["used"] for row in rows], [row["evenness"] for row in rows])
    if not is_even(rows[kept[0]]["used"], rows[kept[0]]["evenness"]):
        return 0, f"{rows[0]['name']}: every model of the stages left clusters nearly empty, and this is the first"
    more = [row["name"] for row in rows[kept[-1] + 1 :]]
    lost = f"; {' and '.join(more)} left clusters nearly empty" if more else ""
    row = rows[kept[-1]]
    num_empty, num_clusters = row["sizes"].count(0), len(row["sizes"])
    empty = f"did not collapse (empty clusters: {num_empty} of {num_clusters})"
    those = empty if num_empty else "kept its clusters"
    return kept[-1], f"{row['name']}: the last model of the stages that {those}{lost}"


def trust_in_one(neighbors: float, used: int, num_clusters: int) -> str:
    """How far to trust one model of a network trained on these images alone, by the table TRUST_IN_ONE.

    Where clusters are empty, others hold several kinds of images, however often neighbors share one.
    """
    if used == 1:
        return f"all images are in one cluster, which says nothing about them; {ADVICE}"
    if used < num_clusters and neighbors >= TRUST_IN_ONE[-2][0]:
        return (
            f"of {num_clusters} clusters {num_clusters - used} hold no image: expect others to hold several kinds; try "
            "another number of clusters"
        )
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
