"""The cluster prior in every place that reads it: closed forms, loops from the formula, gradients, bad values."""

import math

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.autograd import gradcheck

from clustering.validation import validation_loss, warn_of_collapse
from losses.scan import ClusterPrior, SCANLoss, entropy, expected_sizes
from losses.selflabel import ConfidenceBasedCE
from tests.losses.test_losses import normal, softmax

SHARES = [0.2, 0.5, 0.3]  # in no order: the largest cluster gets the largest


def test_expected_sizes_by_hand():
    """Ranks 1, 1/2, 1/3 sum to 11/6; in mean sizes of three clusters that is 18/11, 9/11, 6/11."""
    sizes = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    assert expected_sizes("uniform", sizes).tolist() == [1, 1, 1]
    assert expected_sizes("power:0", sizes).tolist() == [1, 1, 1]
    assert expected_sizes("power:1", sizes).tolist() == pytest.approx([6 / 11, 18 / 11, 9 / 11])
    assert expected_sizes(SHARES, sizes).tolist() == pytest.approx([0.6, 1.5, 0.9])
    assert expected_sizes(SHARES, torch.tensor([4.0, 4.0, 4.0])).tolist() == pytest.approx([1.5, 0.9, 0.6])
    with pytest.raises(ValueError, match="3 shares does not fit 2 clusters"):
        expected_sizes(SHARES, torch.ones(2))


@pytest.mark.parametrize("prior", ["uniform", "power:0.7", SHARES])
def test_the_entropy_is_largest_where_sizes_are_as_expected(prior):
    q = expected_sizes(prior, torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)) / 3
    assert entropy(q, prior).item() == pytest.approx(math.log(3), abs=1e-12)
    assert entropy(torch.tensor([0.9, 0.05, 0.05], dtype=torch.float64), prior).item() < math.log(3) - 0.05


@pytest.mark.parametrize("power", [0.3, 1.0])
def test_a_collapse_costs_more_than_equal_clusters(power):
    equal, collapsed = torch.full((10,), 0.1), torch.eye(10)[3]
    assert entropy(equal, f"power:{power}") > entropy(collapsed, f"power:{power}") + 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_clusters", [3, 10, 49])
def test_a_power_of_0_is_scan_bit_for_bit(dtype, num_clusters):
    a, b = (normal(20, num_clusters, seed=seed, dtype=dtype, scale=3).requires_grad_() for seed in (0, 1))
    q = torch.softmax(a.detach(), 1).mean(0).clamp(min=1e-8)
    plain = -(q * q.log()).sum()
    for prior in ("uniform", "power:0"):
        assert torch.equal(entropy(q, prior), plain)
    grads = [torch.autograd.grad(SCANLoss(5.0, prior)(a, b).total, (a, b)) for prior in ("uniform", "power:0")]
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


@pytest.mark.parametrize("prior", ["power:0.5", SHARES])
def test_scan_with_a_prior_is_the_formula(prior):
    anchors, neighbors = normal(9, 3, scale=3), normal(9, 3, seed=1, scale=3)
    shares = sorted(SHARES if prior is SHARES else [r**-0.5 for r in (1, 2, 3)], reverse=True)
    mean = sorted(np.mean([softmax(row) for row in anchors.tolist()], axis=0), reverse=True)
    expected = -sum(q * math.log(q / (3 * share / sum(shares))) for q, share in zip(mean, shares, strict=True))
    terms = SCANLoss(2.0, prior)(anchors, neighbors)
    assert terms.entropy.item() == pytest.approx(expected, rel=1e-12)
    assert terms.total.item() == pytest.approx(terms.consistency.item() - 2 * expected, rel=1e-12)
    assert gradcheck(SCANLoss(2.0, prior), (anchors.requires_grad_(), neighbors.requires_grad_()))


def test_balancing_with_a_prior_is_a_loop():
    weak, strong = normal(30, 3, scale=4), normal(30, 3, seed=1)
    labels, sure = weak.argmax(1).tolist(), (torch.softmax(weak, 1).amax(1) > 0.6).tolist()
    counts = [sum(s and label == c for label, s in zip(labels, sure, strict=True)) for c in range(3)]
    assert sorted(counts)[0] > 0 and len(set(counts)) == 3
    by_rank = dict(zip(sorted(range(3), key=lambda c: -counts[c]), sorted(SHARES, reverse=True), strict=True))
    top = bottom = 0.0
    for row, label, s in zip(strong.tolist(), labels, sure, strict=True):
        weight = s * sum(counts) * 3 * by_rank[label] / counts[label]
        top -= weight * math.log(softmax(row)[label])
        bottom += weight
    assert ConfidenceBasedCE(0.6, True, SHARES)(weak, strong).item() == pytest.approx(top / bottom, rel=1e-12)
    uniform = ConfidenceBasedCE(0.6, True)(weak, strong)
    assert torch.equal(ConfidenceBasedCE(0.6, True, "power:0")(weak, strong), uniform)


def test_the_validation_loss_expects_the_same_sizes():
    probabilities = torch.eye(3, dtype=torch.float64)[[0, 0, 0, 0, 0, 1, 1, 1, 2, 2]]
    same = torch.arange(10).unsqueeze(1).expand(-1, 6)
    found = validation_loss(probabilities, same, cluster_prior=SHARES)
    assert found.total.item() == pytest.approx(-math.log(3), abs=1e-12)
    assert validation_loss(probabilities, same).total.item() > found.total.item() + 0.05


def test_warnings_know_what_is_expected(capsys):
    warn_of_collapse(torch.tensor([88, 8, 4]), 3)
    assert "very unequal size" in capsys.readouterr().err
    warn_of_collapse(torch.tensor([88, 8, 4]), 3, [0.85, 0.1, 0.05])
    assert capsys.readouterr().err == ""
    for prior in ([0.8, 0.05, 0.05, 0.05, 0.05], "power:1"):  # more even than expected is neither
        warn_of_collapse(torch.tensor([20] * 5), 5, prior)
        warn_of_collapse(torch.tensor([60, 10, 10, 10, 10]), 5, prior)
    assert capsys.readouterr().err == ""
    warn_of_collapse(torch.tensor([0, 100, 0]), 3, "power:1")
    assert "training has collapsed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([0.5, 0.4], "shares should sum to 1, and these sum to 0.9"),
        ([1.5, -0.5], "shares should be numbers above 0"),
        ([True], "shares should be numbers above 0"),
        ([], "these sum to 0"),
        ("power:2", "a number from 0 to 1"),
        ("power:x", "a number from 0 to 1"),
        ("power:nan", "a number from 0 to 1"),
        ("even", "it should be uniform, power:A, or a list of shares"),
        (3, "it should be uniform, power:A, or a list of shares"),
    ],
)
def test_a_bad_prior_is_one_sentence(value, words):
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(ClusterPrior).validate_python(value)


@pytest.mark.parametrize("value", ["uniform", "power:0", "power:1.0", [0.25, 0.25, 0.5]])
def test_a_good_prior_stays_as_it_is(value):
    assert TypeAdapter(ClusterPrior).validate_python(value) == value
