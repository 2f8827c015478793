"""Cluster given features by every method, and keep the clustering that a label-free judge prefers.

    python -m methods.candidates --config_exp configs/methods/candidates_digits.yml
    python -m methods.candidates --config_exp configs/methods/candidates_cifar10.yml num_classes=20 run_name=k20

Starts from the features and neighbors of a pretext run. The candidates are K-means with and without principal
components, SCAN heads, spectral clustering, TEMI, TURTLE, and a vote of all. The chosen model is
{root_dir}/{train_db_name}/candidates/model.pth.tar, and run.json holds the scores of all.
"""

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from clustering.candidate import Candidate, Embedding, predict
from clustering.judge import VOTE, judge, with_most_agreeing_heads
from clustering.mining import mine_neighbors
from clustering.neighbors import limit_neighbors
from clustering.prediction import Prediction
from clustering.scores import count_classes, score_clusters, without_matrix
from clustering.vote import vote
from losses.scan import UNIFORM
from methods import kmeans_heads, scan_heads, spectral, temi, turtle
from models.heads import describe_head
from models.loading import load_backbone
from models.models import ClusteringModel
from models.weights import read_weights, save_weights
from system.console import say
from system.runtime import one_thread
from training.record import read_record
from training.run import Run
from utils import cli, mined
from utils.clusters import score_prediction
from utils.common_config import get_backbone, get_splits, split_by_network
from utils.stage import run_stage

NUM_NEIGHBORS = 20
FEW = 10_000  # images up to which one thread is enough, and on a busy machine far faster than several
METHODS: dict[str, Callable[..., Candidate]] = {
    "kmeans": kmeans_heads.fit,
    # Unwhitened components drop noise; whitened ones must be few, or noise weighs as much as the rest.
    "kmeans pca": partial(kmeans_heads.fit, num_dims=64),
    "kmeans whitened": partial(kmeans_heads.fit, num_dims=20, whiten=True),
    "scan": scan_heads.fit,
    "spectral": spectral.fit,
    "temi": temi.fit,
    "turtle": turtle.fit,
}
EVEN_BETA = 0.6  # of TEMI, where clusters are expected to be equally large
ON_EACH = ("scan", "spectral")  # of several spaces, besides on all together


def make_candidates(
    features: Tensor | Sequence[Tensor],
    num_clusters: int,
    seed: int = 0,
    neighbors: Tensor | None = None,
    say: Callable[[str], None] = lambda name: None,
    options: Mapping[Callable[..., Candidate], dict[str, Any]] = MappingProxyType({}),
    names: Sequence[str] = (),
) -> tuple[list[Candidate], Tensor, Tensor]:
    """Cluster features by every method.

    Args:
        features: float32 [N, D], or several such spaces of the same images. With two or more, every method runs on all
            together, SCAN heads and spectral clustering on each as well; heads read the spaces side by side, [N, ΣD].
        num_clusters: K.
        seed: of all draws.
        neighbors: int64 [N, k + 1] in all spaces together; mined unless given.
        say: is told the name of what runs next.
        options: further keywords of the functions in `METHODS`, such as `{temi.fit: {"num_steps": 2000}}`.
        names: of the spaces, for the candidates on one alone; by default their numbers, from 1 on.

    Returns the candidates, a vote last, the features side by side [N, ΣD], and the neighbors in them.
    """
    spaces = [features] if isinstance(features, Tensor) else list(features)
    dims = [space.shape[1] for space in spaces]
    whole = torch.cat([space.float() for space in spaces], dim=1)
    size = limit_neighbors(NUM_NEIGHBORS, len(whole), num_clusters)
    if neighbors is None:
        neighbors = torch.as_tensor(mine_neighbors(whole, min(NUM_NEIGHBORS, len(whole) - 1), dims=dims))
    both = Embedding(whole, neighbors[:, : size + 1], dims)
    plan = [(name, fit, both) for name, fit in METHODS.items()]
    for number, space in enumerate(spaces if len(spaces) > 1 else []):
        alone = Embedding(whole, torch.as_tensor(mine_neighbors(space, size)), [dims[number]], sum(dims[:number]))
        which = f"on {names[number]}" if names else f"{number + 1}"
        plan += [(f"{name} {which}", METHODS[name], alone) for name in ON_EACH]
    found = []
    for name, fit, embedding in plan:
        say(name)
        found.append(fit(embedding, num_clusters, seed, name=name, **options.get(fit, {})))
    say(VOTE)
    finalists = with_most_agreeing_heads(found, num_clusters)
    return [*finalists, vote(finalists, whole, num_clusters)], whole, neighbors


def train(p: Any, run: Run, temi_beta: Annotated[float, Field(gt=0, le=1)] = EVEN_BETA) -> dict[str, Any]:
    """Cluster the features of the pretext run by every method, judge, and save the chosen model; returns all scores.

    Args:
        temi_beta: of TEMI; 1 lets clusters be of unequal size, and the default does where `cluster_prior` expects that.
    """
    train_set, val_set = get_splits(p, run)
    built = get_backbone(p)
    features = mined.load_features(p, "train", train_set, built["dim"])
    neighbors = mined.load_split_neighbors(p, "train", train_set, min(NUM_NEIGHBORS, len(train_set) - 1))
    run.only_tried(f"{len(features):,} features of {features.shape[1]} dimensions are there to be clustered")
    options: dict[Callable[..., Candidate], dict[str, Any]] = {
        scan_heads.fit: {"cluster_prior": p.cluster_prior},
        temi.fit: {"beta": 1.0 if temi_beta == EVEN_BETA and p.cluster_prior != UNIFORM else temi_beta},
    }
    spaces, names = split_by_network(features, built), p.backbone.split("+")
    with one_thread() if len(features) <= FEW else contextlib.nullcontext():
        candidates, whole, neighbors = make_candidates(spaces, p.num_classes, p.seed, neighbors, say, options, names)
        verdict = judge(candidates, whole, neighbors, p.num_classes, p.cluster_prior)
    head = candidates[verdict.chosen].head
    model = ClusteringModel(built, p.num_classes, heads=[head])
    load_backbone(model, read_weights(p.pretext_model))
    save_weights(p.candidates_model, {"model": model.state_dict(), "head": 0}, setup=p.setup)
    run.note(engine=read_record(Path(p.pretext_dir)).get("engine"))  # of a network that was pretrained
    run.describe(head_kwargs=describe_head(head))
    table = [row._asdict() for row in verdict.table]
    for row, candidate in zip(table, candidates, strict=True):
        clusters = candidate.clusters[candidate.best]
        row["sizes"] = torch.bincount(clusters, minlength=p.num_classes).tolist()
        row["seconds"] = round(candidate.seconds, 2)
        if train_set.has_labels:  # they only score
            scores = score_clusters(clusters, train_set.targets, p.num_classes, count_classes(train_set))
            row["acc_from_labels"] = round(scores["acc"], 4)
    told = {"chosen": verdict.table[verdict.chosen].name, "reason": verdict.reason, "trust": verdict.trust}
    val_features = features if val_set is train_set else mined.load_features(p, "val", val_set)
    scores = without_matrix(score_prediction(Prediction(val_features, predict(head, val_features)), val_set))
    return {**told, "consensus": round(verdict.consensus, 4), "candidates": table, **scores}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_stage("candidates", train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
