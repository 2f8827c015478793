"""The vote of several clusterings of the same features."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from clustering.agreement import adjusted_rand, match_clusters
from clustering.candidate import Candidate, make_candidate, predict
from clustering.judge import VOTE
from models.heads import VoteHead, describe_head

ROUNDS = 5


def vote(candidates: Sequence[Candidate], features: Tensor, num_clusters: int) -> Candidate:
    """Return the vote of the best heads of all candidates: the mean probability after matching their clusters.

    `features` [N, ΣD] are those that the candidates' heads read.
    Clusters are matched to those of the head that agrees most with the others, then to the vote itself until nothing
    changes. The loss is minus the mean adjusted Rand index of vote and members.
    """
    started = time.perf_counter()
    clusters = [candidate.clusters[candidate.best] for candidate in candidates]
    central = max(clusters, key=lambda one: sum(adjusted_rand(one, other, num_clusters) for other in clusters))
    probabilities = [predict(candidate.head, features).cpu() for candidate in candidates]
    for _ in range(ROUNDS):
        orders = [torch.argsort(match_clusters(one, central, num_clusters)) for one in clusters]
        total = torch.stack([p[:, order] for p, order in zip(probabilities, orders, strict=True)]).mean(0)
        before, central = central, total.argmax(1)
        if bool((before == central).all()):
            break
    members = [describe_head(candidate.head) for candidate in candidates]
    dims = [features.shape[1]]
    head = VoteHead(dims, num_clusters, heads=members).to(features.device)
    for member, candidate in zip(head.members, candidates, strict=True):
        member.load_state_dict(candidate.head.state_dict())
    head.order.copy_(torch.stack(orders))
    loss = -sum(adjusted_rand(central, one, num_clusters) for one in clusters) / len(clusters)
    return make_candidate(VOTE, [head], [loss], features, time.perf_counter() - started)
