"""Scores against permutations, loops and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn import metrics

import clustering.kmeans
import clustering.scores
from clustering.agreement import agreement, expected_information
from clustering.kmeans import score_kmeans
from clustering.prediction import find_prototypes
from clustering.scores import contingency, match, score, score_clusters
from clustering.validation import validation_loss
from system.errors import UserError

SMALL = {"block_bytes": 1000}  # several blocks, the last one partial


def integers(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def predictions(num, num_clusters, seed=0):
    logits = torch.randn(num, num_clusters, generator=torch.Generator().manual_seed(seed))
    return (2 * logits).softmax(1)


def test_contingency_counts_pairs():
    clusters, targets = integers(4, 200), integers(4, 200, seed=1) - 1
    expected = np.zeros((4, 3), dtype=int)
    for cluster, target in zip(clusters.tolist(), targets.tolist(), strict=True):
        if target >= 0:
            expected[cluster, target] += 1
    assert contingency(clusters, targets, 4, 3).tolist() == expected.tolist()
    with pytest.raises(UserError, match="class number 2"):
        contingency(clusters, targets, 4, 2)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (1, 4), (4, 1)])
def test_matching_is_the_best_of_all_permutations(shape):
    for seed in range(5):
        table = integers(50, *shape, seed=seed).numpy()
        matching = match(table)
        small, large = sorted(shape)
        wide = table if shape[0] == small else table.T
        best = max(sum(wide[i, p[i]] for i in range(small)) for p in itertools.permutations(range(large), small))
        assert sum(table[pair] for pair in matching) == best
        assert len(matching) == small
        assert len({c for c, _ in matching}) == len({k for _, k in matching}) == small


def test_matching_is_worth_the_full_table():
    """The second cluster takes class 0 although the first one holds more of it: together that is better."""
    assert match(torch.tensor([[6, 5], [5, 0]])) == [(0, 1), (1, 0)]


def test_unmatched_clusters_are_wrong():
    """Clusters 0, 1, 2 hold 4, 3 and 2 samples of classes 0, 1, 0: cluster 2 stays unmatched."""
    clusters = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])
    scores = score_clusters(clusters, torch.tensor([0, 0, 0, 0, 1, 1, 1, 0, 0]), 3, 2)
    assert scores["matching"] == [(0, 0), (1, 1)]
    assert scores["acc"] == pytest.approx(7 / 9)
    assert scores["acc_many_to_one"] == 1.0
    assert scores["confusion"].tolist() == [[4, 0], [0, 3], [2, 0]]


def test_fewer_clusters_than_classes():
    scores = score(predictions(60, 2), integers(4, 60), 4, **SMALL)
    assert len(scores["matching"]) == 2 and scores["top5"] <= 1 and "acc_many_to_one" not in scores


@pytest.mark.parametrize("num_clusters", [2, 5, 7, 12])
def test_score_is_loops_and_scikit_learn(num_clusters):
    probabilities, targets = predictions(150, num_clusters), integers(8, 150, seed=1) - 1
    scores = score(probabilities, targets, 7, **SMALL)
    class_of = dict(scores["matching"])
    hits = top = known = 0
    for row, target in zip(probabilities.tolist(), targets.tolist(), strict=True):
        if target >= 0:
            ranked = sorted(range(num_clusters), key=lambda c, row=row: -row[c])
            hits += class_of.get(ranked[0]) == target
            top += target in [class_of.get(c) for c in ranked[:5]]
            known += 1
    assert scores["num_samples"] == known
    assert (scores["acc"], scores["top5"]) == (hits / known, top / known)
    labeled = targets >= 0
    y, z = targets[labeled].numpy(), probabilities.argmax(1)[labeled].numpy()
    assert scores["nmi"] == pytest.approx(metrics.normalized_mutual_info_score(y, z), abs=1e-12)
    assert scores["ari"] == pytest.approx(metrics.adjusted_rand_score(y, z), abs=1e-12)
    assert scores["ami"] == pytest.approx(metrics.adjusted_mutual_info_score(y, z), abs=1e-12)


def test_equal_probabilities_rank_by_cluster():
    """Seven equal clusters, one sample of each class: the first five clusters are the top five."""
    probabilities = torch.full((7, 7), 1 / 7)
    scores = score(probabilities, torch.arange(7), 7, **SMALL)
    assert scores["acc"] == pytest.approx(1 / 7)
    matched = {k for c, k in scores["matching"] if c < 5}
    assert scores["top5"] == pytest.approx(len(matched) / 7)


def test_scores_need_labels_and_numbers():
    with pytest.raises(UserError, match="no sample has a label"):
        score(predictions(5, 3), torch.full((5,), -1), 3, **SMALL)
    with pytest.raises(UserError, match="diverged"):
        score(torch.full((5, 3), torch.nan), torch.zeros(5), 3, **SMALL)


PARTITIONS = {
    "equal": ([0, 1, 2, 1], [2, 0, 1, 0]),
    "one cluster": ([0, 0, 0], [0, 1, 2]),
    "one of each": ([0, 0, 0], [1, 1, 1]),
    "all apart": ([0, 1, 2, 3], [3, 2, 1, 0]),
    "independent": ([0, 0, 1, 1], [0, 1, 0, 1]),
    "unused numbers": ([0, 5, 5, 9, 9], [3, 3, 7, 7, 7]),
}


@pytest.mark.parametrize("num", [1, 10, 20, 23, 60])
@pytest.mark.parametrize("share", [1, 3])
def test_a_perfect_match_is_exactly_one(num, share):
    """Sums of logarithms alone would make 0.67 or -2 of the AMI of samples that are all apart."""
    clusters = torch.arange(num) // share
    scores = score_clusters(clusters, (clusters + 1) % (clusters.max() + 1), num, num)
    assert (scores["acc"], scores["nmi"], scores["ari"], scores["ami"]) == (1, 1, 1, 1)


@pytest.mark.parametrize("case", PARTITIONS)
def test_agreement_of_special_partitions(case):
    z, y = (np.array(x) for x in PARTITIONS[case])
    found = agreement(np.bincount(z * 10 + y, minlength=100).reshape(10, 10))
    assert found["nmi"] == pytest.approx(metrics.normalized_mutual_info_score(y, z), abs=1e-12)
    assert found["ari"] == pytest.approx(metrics.adjusted_rand_score(y, z), abs=1e-12)
    assert found["ami"] == pytest.approx(metrics.adjusted_mutual_info_score(y, z), abs=1e-12)


@pytest.mark.parametrize(("num", "num_clusters", "num_classes"), [(100_000, 3, 4), (20_000, 120, 40)])
def test_expected_information_leaves_out_nothing_that_counts(num, num_clusters, num_classes):
    random = np.random.default_rng(0)
    shares = np.outer(random.dirichlet(np.ones(num_clusters)), random.dirichlet(np.ones(num_classes)))
    table = random.multinomial(num, shares.ravel()).reshape(shares.shape)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    expected = metrics.cluster.expected_mutual_information(table, num)
    assert expected_information(table.sum(1), table.sum(0)) == pytest.approx(expected, rel=1e-10)


def test_validation_loss_is_a_loop():
    probabilities, neighbors = predictions(40, 5), integers(40, 40, 9)
    logs = [
        math.log(float(probabilities[i].double() @ probabilities[neighbors[i, j]].double()))
        for i in range(40)
        for j in range(6)
    ]
    mean = [sum(column) / 40 for column in probabilities.double().T.tolist()]
    entropy = -sum(q * math.log(q) for q in mean)
    loss = validation_loss(probabilities, neighbors.numpy(), **SMALL)
    assert loss.consistency.item() == pytest.approx(-sum(logs) / 240, rel=1e-6)
    assert loss.entropy.item() == pytest.approx(entropy, rel=1e-6)
    assert loss.total.item() == pytest.approx(-sum(logs) / 240 - entropy, rel=1e-5)


def test_validation_loss_of_certain_predictions():
    """Ten clusters found perfectly: -log 10. Neighbors of another cluster: 100 each, the floor of the log."""
    probabilities = torch.eye(10)
    same = torch.arange(10)[:, None].expand(-1, 6)
    assert validation_loss(probabilities, same, **SMALL).total.item() == pytest.approx(-math.log(10), rel=1e-6)
    assert validation_loss(probabilities, (same + 1) % 10, **SMALL).consistency.item() == 100


def test_prototypes_by_hand():
    """Twelve samples in cluster 0: the two least confident are where the mean of all would be, and do not count."""
    confidence = torch.tensor([*[0.9] * 10, 0.6, 0.6, 0.4, 0.45])
    probabilities = torch.stack([confidence, 1 - confidence, torch.zeros(14)], dim=1)
    features = torch.zeros(14, 2)
    features[:10, 0] = torch.arange(10.0)  # mean 4.5: samples 4 and 5 are equally near
    features[12:] = torch.tensor([[1.0, 1], [2, 2]])
    features[7, 0] = 7.5  # mean 4.55
    assert find_prototypes(features, probabilities) == {0: 5, 1: 12}
    assert find_prototypes(features.numpy(), probabilities) == {0: 5, 1: 12}


def test_prototypes_are_loops():
    probabilities, features = predictions(300, 6), torch.randn(300, 4, generator=torch.Generator().manual_seed(2))
    expected = {}
    for cluster in range(6):
        own = [i for i in range(300) if int(probabilities[i].argmax()) == cluster]
        own = sorted(own, key=lambda i, c=cluster: -float(probabilities[i, c]))[:10]
        mean = features[own].mean(0)
        expected[cluster] = min(own, key=lambda i, m=mean: float((features[i] - m).norm()))
    assert find_prototypes(features, probabilities) == expected


def test_kmeans_finds_separate_groups_whatever_their_length():
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(3).repeat_interleave(30)
    lengths = 0.1 + 10 * torch.rand(90, 1, generator=generator)
    features = lengths * (torch.eye(3)[targets] + 0.05 * torch.randn(90, 3, generator=generator))
    scores = score_kmeans(features, features[::2], targets[::2], 3, num_runs=3)
    assert scores == dict.fromkeys(("acc", "nmi", "ari"), (1.0, 0.0))
    assert scores == score_kmeans(features, features[::2], targets[::2], 3, num_runs=3)
    assert score_kmeans(features, features, targets, 3, num_runs=1)["acc"][1] == 0.0
    with pytest.raises(UserError, match="cannot make 91 clusters of 90 images"):
        score_kmeans(features, features, targets, 91)


def test_mean_and_sample_deviation():
    assert clustering.kmeans._mean_and_std([1.0, 2.0, 3.0, 4.0]) == (2.5, pytest.approx(math.sqrt(5 / 3)))
