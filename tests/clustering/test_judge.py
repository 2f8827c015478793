import math

import pytest
import torch

from clustering.agreement import adjusted_rand, match_clusters
from clustering.candidate import Candidate
from clustering.judge import (
    RULES,
    TRUST,
    Scores,
    choose,
    evenness,
    generalisation_score,
    judge,
    neighbor_agreement,
    sound_of,
    with_most_agreeing_heads,
)
from clustering.mining import mine_neighbors
from tests.methods.test_methods import blobs


def candidate(name, *clusters):
    return Candidate(name, [None] * len(clusters), torch.stack(clusters), [0.0] * len(clusters), 0)


def scores(name="a", **changed):
    usual = {"agreement": 0.5, "seeds": 1.0, "neighbors": 0.5, "generalisation": 0.9}
    return Scores(**{"name": name, **usual, "evenness": 0.9, "used": 4, "smallest": 9, **changed})


@pytest.fixture(scope="module")
def data():
    x, truth = blobs()
    return x, truth, torch.as_tensor(mine_neighbors(x, 10))


def some_wrong(truth, share, seed):
    draws = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(truth), generator=draws) < share
    return torch.where(wrong, torch.randint(4, truth.shape, generator=draws), truth)


def test_images_fewer_than_folds_are_held_out_one_by_one():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0], [0.1, 1.0], [0.2, 1.0]])
    assert generalisation_score(x, torch.tensor([0, 0, 0, 1, 1, 1])) == 1.0
    assert generalisation_score(x, torch.tensor([0, 0, 0, 0, 0, 1])) == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("used", "even", "kept"),
    [
        ([10, 10, 9], [0.9, 0.5, 0.9], [0, 1]),
        ([9, 10], [0.88, 0.45], [0]),  # the one with more clusters has collapsed
        ([10, 10], [0.4, 0.3], [0, 1]),  # all have
        ([2, 2], [0.54, 0.98], [1]),  # 984 and 16 of 1,000
    ],
)
def test_the_sound_ones_are_even_and_of_them_use_the_most_clusters(used, even, kept):
    assert sound_of(used, even) == kept


def test_matching_undoes_a_permutation():
    draws = torch.Generator().manual_seed(0)
    reference, order = torch.randint(5, (300,), generator=draws), torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(match_clusters(order[reference], reference, 5)[order[reference]], reference)
    assert adjusted_rand(order[reference], reference, 5) == 1
    assert abs(adjusted_rand(torch.randint(5, (300,), generator=draws), reference, 5)) < 0.05


def test_neighbor_agreement_is_1_for_true_clusters_and_0_for_collapse_and_chance(data):
    _, truth, neighbors = data
    assert neighbor_agreement(truth, neighbors) > 0.95
    assert neighbor_agreement(torch.zeros_like(truth), neighbors) == 0
    assert abs(neighbor_agreement(some_wrong(truth, 1.0, 0), neighbors)) < 0.1
    by_hand = torch.tensor([0, 0, 1, 1])
    pairs = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 2]])
    assert neighbor_agreement(by_hand, pairs) == pytest.approx((0.75 - 0.5) / 0.5)


def test_evenness_in_closed_form():
    assert evenness(torch.tensor([5, 5, 5, 5])) == pytest.approx(1)
    assert evenness(torch.tensor([20, 0, 0, 0])) == pytest.approx(0.25)
    assert evenness(torch.tensor([10, 10, 0, 0])) == pytest.approx(math.exp(math.log(2)) / 4)
    shares = [0.5, 0.25, 0.125, 0.125]  # whose entropy is 1.75 bits
    assert evenness(torch.tensor([1, 2, 1, 4]), shares) == pytest.approx(1)
    assert evenness(torch.tensor([5, 5, 5, 5]), shares) == pytest.approx(4 / 2**1.75)


def test_generalisation_rewards_collapse_as_it_is_known_to(data):
    x, truth, _ = data
    almost_all = torch.zeros_like(truth)
    almost_all[0] = 1
    assert generalisation_score(x, truth) > 0.95
    assert generalisation_score(x, almost_all) > 0.98
    assert generalisation_score(x, some_wrong(truth, 1.0, 0)) < 0.5


def test_the_judge_does_not_reward_collapse(data):
    x, truth, neighbors = data
    almost_all = torch.zeros_like(truth)
    almost_all[:3] = torch.tensor([1, 2, 3])
    three = torch.where(truth == 3, 2, truth)  # as good as the truth to neighbors, but a cluster is empty
    rough = some_wrong(truth, 0.3, 1)
    verdict = judge(
        [candidate("all", almost_all), candidate("three", three), candidate("rough", rough)], x, neighbors, 4
    )
    assert verdict.table[verdict.chosen].name == "rough"
    assert "2 of which left clusters nearly empty" in verdict.reason


def test_the_best_of_noisy_copies_is_chosen_and_trust_follows_their_agreement(data):
    x, truth, neighbors = data
    noisy = [candidate(str(share), some_wrong(truth, share, i)) for i, share in enumerate((0.4, 0.05, 0.3))]
    verdict = judge(noisy, x, neighbors, 4)
    assert verdict.table[verdict.chosen].name == "0.05"
    alike = judge([candidate(str(i), truth) for i in range(3)], x, neighbors, 4)
    noise = judge([candidate(str(i), some_wrong(truth, 1.0, i)) for i in range(3)], x, neighbors, 4)
    assert [alike.trust.startswith(TRUST[0][1]), noise.trust.startswith(TRUST[-1][1])] == [True, True]
    assert alike.consensus == 1 > verdict.consensus > noise.consensus


def test_a_vote_does_not_raise_the_trust_in_itself(data):
    x, truth, neighbors = data
    noise = [candidate(str(i), some_wrong(truth, 1.0, i)) for i in range(2)]
    alone, voted = (judge(noise + more, x, neighbors, 4) for more in ([], [candidate("vote", noise[0].clusters[0])]))
    assert voted.consensus == alone.consensus
    assert voted.table[2].agreement > 0.4


def test_agreement_on_one_cluster_for_all_is_no_reason_for_trust(data):
    x, truth, neighbors = data
    verdict = judge([candidate(name, torch.zeros_like(truth)) for name in "ab"], x, neighbors, 4)
    assert verdict.consensus == 1
    assert verdict.trust.startswith("all images are in one cluster")


def test_the_head_that_agrees_with_others_counts(data):
    _, truth, _ = data
    odd = candidate("odd", some_wrong(truth, 0.8, 0), some_wrong(truth, 0.1, 1), some_wrong(truth, 0.5, 2))
    found = with_most_agreeing_heads([odd, candidate("other", truth)], 4)
    assert [one.best for one in found] == [1, 0]
    assert with_most_agreeing_heads([odd], 4)[0].best == 0


@pytest.mark.parametrize("rule", RULES)
def test_a_collapsed_clustering_is_chosen_by_no_rule(rule):
    best = {"agreement": 1.0, "neighbors": 1.0}
    table = [scores("vote", used=3, **best), scores("b"), scores("vote", evenness=0.3, **best)]
    assert choose(table, rule) == 1
    assert choose([scores("vote", evenness=0.3, **best), scores(evenness=0.3)], rule) == 0


@pytest.mark.parametrize(("behind", "chosen"), [(0.01, 0), (0.03, 1)])
def test_the_vote_is_left_only_for_what_neighbors_clearly_prefer(behind, chosen):
    assert choose([scores("vote", neighbors=0.7 - behind), scores("b", neighbors=0.7)]) == chosen
