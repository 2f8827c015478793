"""The judge: label-free scores of clusterings of the same images, a rule that chooses one, and how far to trust it.

No label is read here, and no score is compared that depends on the scale of a method's probabilities.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clustering.agreement import adjusted_rand
from clustering.candidate import Candidate
from clustering.pca import fit_even_pca
from losses.scan import UNIFORM, expected_sizes

NEAREST = 5  # neighbors of each image that are asked for their cluster
FOLDS = 10
FOLD_DIMS = 50
FOLD_IMAGES = 2000
SMALLEST_EVENNESS = 0.5  # a clustering that is less even, by what is expected, counts as collapsed
SMALLEST_OF_TWO = 0.6  # of two clusters, whose least is .5 where equal ones are expected; 95 and 5 of 100 have .61
VOTE = "vote"
RULE = "neighbors, the vote ahead"  # of RULES; neighbors alone prefer spectral clustering, which is made of them
AHEAD = 0.02  # by how much neighbors must speak for another clustering before the vote, the steadiest, is left
# From this mean agreement of the methods (adjusted Rand index) on, what to expect and what to try next. In the cases of
# benchmarks/results/judge.json eight of ten votes had an ACC of 81 to 97 % from .65 on, and of 53 to 76 % below.
TRUST = (
    (0.65, "the methods find largely the same clusters: most images should be where they belong"),
    (0.50, "the methods agree in part: expect clusters that are split or merged; try another number of clusters"),
    (
        -1.0,
        "the methods disagree: take these clusters as a guess; try stronger features, more images or training on them",
    ),
)


class Scores(NamedTuple):
    """What is known without labels of one finalist.

    agreement: mean adjusted Rand index with the finalists of the other methods. seeds: the same among the method's own
    draws (1 where there is one). neighbors: share of nearest neighbors in the same cluster, 0 by chance and 1 at best.
    generalisation: how often a linear classifier is right about unseen images' clusters; collapse has nearly 1.
    evenness: of the sizes, 1 where as expected. used: clusters with an image. smallest: the size of the smallest one.
    """

    name: str
    agreement: float
    seeds: float
    neighbors: float
    generalisation: float
    evenness: float
    used: int
    smallest: int


class Verdict(NamedTuple):
    """The position of the chosen finalist, the scores of all, why, how far to trust it, and the number behind that."""

    chosen: int
    table: list[Scores]
    reason: str
    trust: str
    consensus: float


def evenness(sizes: Tensor, cluster_prior: str | Sequence[float] = UNIFORM) -> float:
    """Return exp(entropy) of cluster sizes [K] by that of the expected ones, which is K unless a prior says otherwise.

    1 for sizes as even as expected, 1/K for all images in one cluster of equal ones; above 1 for more even ones.
    """
    share = sizes.double() / sizes.sum()
    expected = expected_sizes(cluster_prior, share) / len(sizes)
    return float((torch.special.entr(share).sum() - torch.special.entr(expected).sum()).exp())


def neighbor_agreement(clusters: Tensor, neighbors: Tensor) -> float:
    """Return the share of the 5 nearest neighbors in the image's own cluster, adjusted for chance.

    clusters int64 [N], neighbors int64 [N, >= 2] with the image itself first. (share - e) / (1 - e), e = Σ (n_c / N)²,
    so that one cluster for all scores 0, not 1.
    """
    same = float((clusters[neighbors[:, 1 : NEAREST + 1]] == clusters[:, None]).double().mean())
    sizes = torch.bincount(clusters).double() / len(clusters)
    expected = float(sizes.square().sum())
    return (same - expected) / (1 - expected) if expected < 1 else 0.0


def generalisation_score(features: Tensor, clusters: Tensor) -> float:
    """Return the accuracy, over 10 folds or one an image, of a logistic regression that predicts clusters int64 [N].

    Source: TURTLE (https://arxiv.org/abs/2406.07236), C = 1; here on 50 principal components of L2-normalized features
    [N, D], standardized together, of at most 2,000 images. It rewards collapse: compare only clusterings of like sizes.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import

    rows = torch.arange(0, len(clusters), max(1, -(-len(clusters) // FOLD_IMAGES)))
    unit = torch.nn.functional.normalize(features[rows.to(features.device)].float(), dim=1)
    points = fit_even_pca(unit, FOLD_DIMS).apply(unit).cpu().numpy()
    targets = clusters[rows].numpy()
    fold = np.arange(len(targets))[np.argsort(np.argsort(targets, kind="stable"))] % FOLDS  # every cluster in each fold
    right = 0
    for number in range(min(FOLDS, len(targets))):
        train, held = fold != number, fold == number
        if len(np.unique(targets[train])) < 2:
            right += int((targets[held] == targets[train][0]).sum())
            continue
        with warnings.catch_warnings():  # of many small clusters, and of a fit that 50 iterations did not end
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=1.0, max_iter=50, tol=1e-3).fit(points[train], targets[train])
        right += int((model.predict(points[held]) == targets[held]).sum())
    return right / len(targets)


def mean_rand(clusters: Tensor, others: Sequence[Tensor], num_clusters: int) -> float:
    """Return the mean adjusted Rand index of clusters [N] with others; 0 without any."""
    return float(np.mean([adjusted_rand(clusters, other, num_clusters) for other in others])) if len(others) else 0.0


def with_most_agreeing_heads(candidates: Sequence[Candidate], num_clusters: int) -> list[Candidate]:
    """Return a copy of each candidate in which the head counts that agrees most with all heads of the others.

    A method alone, without rivals, keeps the head of its lowest loss.
    """
    found = []
    for candidate in candidates:
        others = [clusters for other in candidates if other is not candidate for clusters in other.clusters]
        values = [mean_rand(clusters, others, num_clusters) for clusters in candidate.clusters]
        best = int(np.argmax(values)) if others else candidate.best
        found.append(candidate.with_best(best))
    return found


def score(
    candidates: Sequence[Candidate],
    features: Tensor,
    neighbors: Tensor,
    num_clusters: int,
    cluster_prior: str | Sequence[float] = UNIFORM,
) -> list[Scores]:
    """Return the label-free scores of the best head of each candidate, on features [N, D] that are the same for all.

    A vote is made of the others; so it is compared with them, but they are not compared with it.
    """
    finals = [candidate.clusters[candidate.best] for candidate in candidates]
    table = []
    for number, (candidate, own) in enumerate(zip(candidates, finals, strict=True)):
        rivals = [
            clusters for other, clusters in enumerate(finals) if other != number and candidates[other].name != VOTE
        ]
        draws = [other for head, other in enumerate(candidate.clusters) if head != candidate.best]
        sizes = torch.bincount(own, minlength=num_clusters)
        table.append(
            Scores(
                name=candidate.name,
                agreement=mean_rand(own, rivals, num_clusters),
                seeds=mean_rand(own, draws, num_clusters) if draws else 1.0,
                neighbors=neighbor_agreement(own, neighbors.cpu()),
                generalisation=generalisation_score(features, own),
                evenness=evenness(sizes, cluster_prior),
                used=int((sizes > 0).sum()),
                smallest=int(sizes.min()),
            )
        )
    return table


def sound(table: Sequence[Scores]) -> list[int]:
    """Return the positions of clusterings that have not collapsed, or of all where every one has.

    One of very uneven sizes, or with fewer clusters in use than another of the rest, is left out.
    """
    return sound_of([scores.used for scores in table], [scores.evenness for scores in table])


def is_even(used: int, even: float) -> bool:
    """Whether sizes of this evenness, in so many clusters, are none of a collapse."""
    return even >= (SMALLEST_OF_TWO if used <= 2 else SMALLEST_EVENNESS)


def sound_of(used: Sequence[int], even: Sequence[float]) -> list[int]:
    """`sound` by the numbers of clusters in use and the evenness of their sizes alone."""
    even_ones = [i for i in range(len(used)) if is_even(used[i], even[i])]
    most = max((used[i] for i in even_ones), default=0)
    return [i for i in even_ones if used[i] == most] or list(range(len(used)))


RULES: dict[str, Callable[[Scores], float]] = {
    "vote": lambda scores: float(scores.name == VOTE),
    "agreement": lambda scores: scores.agreement,
    "neighbors": lambda scores: scores.neighbors,
    "neighbors, the vote ahead": lambda scores: scores.neighbors + AHEAD * (scores.name == VOTE),
    "neighbors and agreement": lambda scores: scores.neighbors + scores.agreement,
}


def choose(table: Sequence[Scores], rule: str = RULE) -> int:
    """Return the position of the finalist that a rule likes best among those that have not collapsed."""
    return max(sound(table), key=lambda i: RULES[rule](table[i]))


def consensus(table: Sequence[Scores]) -> float:
    """Return the mean agreement of all finalists but the vote, which would agree with itself; 0 without rivals."""
    return float(np.mean([scores.agreement for scores in table if scores.name != VOTE]))


def explain(table: Sequence[Scores], chosen: int) -> str:
    """Say in words why a finalist was chosen."""
    kept = sound(table)
    most = max(table[i].neighbors for i in kept)
    best = table[chosen].neighbors == most
    how, than = ("most often", "") if best else ("nearly most often", f"; at best {most:.3f}")
    collapsed = len(table) - len(kept)
    return (
        f"{table[chosen].name}: neighbors share a cluster {how} ({table[chosen].neighbors:.3f}, adjusted for "
        f"chance{than}), of {len(table)} candidates"
        + (f", {collapsed} of which left clusters nearly empty" if collapsed else "")
    )


def judge(
    candidates: Sequence[Candidate],
    features: Tensor,
    neighbors: Tensor,
    num_clusters: int,
    cluster_prior: str | Sequence[float] = UNIFORM,
) -> Verdict:
    """Choose one of the candidates without a label; `cluster_prior` says how even sizes should be.

    features [N, D] are those that all candidates are compared on, neighbors int64 [N, k + 1] those in them. The chosen
    one is, of those that have not collapsed, the one whose clusters most neighbors share, where the vote is .02 ahead;
    how far to trust it follows from the mean agreement of the methods, by the table TRUST.
    """
    table = score(candidates, features, neighbors, num_clusters, cluster_prior)
    chosen = choose(table)
    agreed = consensus(table)
    trust = next(sentence for least, sentence in TRUST if agreed >= least)
    if table[chosen].used == 1:
        trust = "all images are in one cluster, which says nothing about them"
    trust = f"{trust} (agreement of the methods {agreed:.2f})"
    return Verdict(chosen, table, explain(table, chosen), trust, agreed)
