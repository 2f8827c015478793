"""Losses against loops written from the formulas, closed forms, and numerical gradients."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from losses import CRITERIA
from losses.scan import SCANLoss
from losses.selflabel import ConfidenceBasedCE
from losses.simclr import SimCLRLoss


def normal(*shape, seed=0, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=dtype)


def softmax(row):
    exponentials = [math.exp(x - max(row)) for x in row]
    return [e / sum(exponentials) for e in exponentials]


def naive_simclr(features, temperature):
    batch = len(features)
    embeddings = [features[i, v] for v in (0, 1) for i in range(batch)]
    losses = []
    for i in range(batch):
        scores = [float(np.dot(embeddings[i], e)) / temperature for e in embeddings]
        denominator = sum(math.exp(s) for j, s in enumerate(scores) if j != i)
        losses.append(-math.log(math.exp(scores[batch + i]) / denominator))
    return sum(losses) / batch


def naive_scan(anchors, neighbors, weight):
    p, k = [softmax(row) for row in anchors], [softmax(row) for row in neighbors]
    consistency = 0.0
    for x, y in zip(p, k, strict=True):
        dot = min(1.0, sum(a * b for a, b in zip(x, y, strict=True)))
        consistency -= max(-100.0, math.log(dot) if dot > 0 else -math.inf) / len(p)
    mean = [max(1e-8, sum(row[c] for row in p) / len(p)) for c in range(len(p[0]))]
    entropy = -sum(q * math.log(q) for q in mean)
    return consistency - weight * entropy, consistency, entropy


def naive_selflabel(weak, strong, threshold, balance):
    labels = [max(range(len(w)), key=lambda c, w=w: w[c]) for w in weak]
    kept = [i for i, w in enumerate(weak) if max(softmax(w)) > threshold]
    counts = {c: sum(labels[i] == c for i in kept) for c in range(len(weak[0]))}
    top = bottom = 0.0
    for i in kept:
        weight = len(kept) / counts[labels[i]] if balance else 1.0
        top -= weight * math.log(softmax(strong[i])[labels[i]])
        bottom += weight
    return top / bottom


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.1, 0.05])
def test_simclr_is_the_formula(temperature):
    features = functional.normalize(normal(7, 2, 5), dim=2)
    expected = naive_simclr(features.numpy(), temperature)
    assert SimCLRLoss(temperature)(features).item() == pytest.approx(expected, rel=1e-12)
    assert SimCLRLoss(temperature)(features.float()).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_simclr_of_identical_features_is_chance(batch):
    loss = SimCLRLoss(0.1)(functional.normalize(torch.ones(batch, 2, 8), dim=2))
    assert loss.item() == pytest.approx(-math.log(1 / (2 * batch - 1)), abs=1e-6)


def test_simclr_of_orthogonal_pairs():
    batch, temperature = 6, 0.1  # the positive has similarity 1, the 2B - 2 others 0
    features = torch.eye(batch, dtype=torch.float64).unsqueeze(1).expand(-1, 2, -1)
    expected = math.log1p((2 * batch - 2) * math.exp(-1 / temperature))
    assert SimCLRLoss(temperature)(features).item() == pytest.approx(expected, rel=1e-9)


def test_simclr_stays_finite_at_tiny_temperatures():
    features = functional.normalize(normal(8, 2, 4, dtype=torch.float32), dim=2).requires_grad_()
    SimCLRLoss(0.001)(features).backward()
    assert torch.isfinite(features.grad).all()


def test_simclr_refuses_another_shape():
    with pytest.raises(ValueError, match=r"\[B, 2, D\]"):
        SimCLRLoss(0.1)(torch.zeros(4, 3, 2))


@pytest.mark.parametrize("weight", [0.0, 2.0, 5.0])
def test_scan_is_the_formula(weight):
    anchors, neighbors = normal(9, 4, scale=3), normal(9, 4, seed=1, scale=3)
    terms = SCANLoss(weight)(anchors, neighbors)
    assert [t.item() for t in terms] == pytest.approx(
        naive_scan(anchors.tolist(), neighbors.tolist(), weight), rel=1e-12
    )
    assert terms.total is terms[0] and terms.consistency is terms[1] and terms.entropy is terms[2]


def test_scan_weighs_the_entropy_twice_by_default():
    logits = normal(3, 4)
    total, consistency, entropy = SCANLoss()(logits, logits)
    assert total.item() == pytest.approx((consistency - 2 * entropy).item())


def test_scan_of_uniform_and_of_perfect_predictions():
    uniform = SCANLoss(5.0)(torch.zeros(6, 10), torch.zeros(6, 10))
    assert uniform.consistency.item() == pytest.approx(math.log(10))
    assert uniform.entropy.item() == pytest.approx(math.log(10))
    perfect = SCANLoss(5.0)(1000 * torch.eye(10), 1000 * torch.eye(10))
    assert perfect.consistency.item() == 0
    assert perfect.total.item() == pytest.approx(-5 * math.log(10))


def test_scan_clamps_like_binary_cross_entropy():
    """A dot product of 0 costs 100, an empty cluster -1e-8 log 1e-8, and no gradient is NaN."""
    anchors = (1000.0 * torch.eye(3)[:1]).requires_grad_()
    terms = SCANLoss(1.0)(anchors, 1000.0 * torch.eye(3)[1:2])
    terms.total.backward()
    assert terms.consistency.item() == 100
    assert terms.entropy.item() == pytest.approx(-2e-8 * math.log(1e-8), rel=1e-4)
    assert torch.isfinite(anchors.grad).all()


def test_scan_matches_binary_cross_entropy_and_its_gradient():
    anchors, neighbors = normal(8, 5).requires_grad_(), normal(8, 5, seed=1).requires_grad_()
    dot = (anchors.softmax(1) * neighbors.softmax(1)).sum(1)
    reference = functional.binary_cross_entropy(dot, torch.ones_like(dot))
    loss = SCANLoss()(anchors, neighbors).consistency
    torch.testing.assert_close(loss, reference)
    for ours, theirs in zip(
        torch.autograd.grad(loss, (anchors, neighbors)),
        torch.autograd.grad(reference, (anchors, neighbors)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
def test_selflabel_is_the_formula(threshold, balance):
    weak, strong = normal(40, 4, scale=3), normal(40, 4, seed=1, scale=3)
    expected = naive_selflabel(weak.tolist(), strong.tolist(), threshold, balance)
    loss = ConfidenceBasedCE(threshold, balance)(weak, strong)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_selflabel_is_the_weighted_mean_of_pytorch():
    """Three confident samples of cluster 0, one of cluster 2: weights 4/3 and 4; cluster 1 is absent."""
    weak = 10 * torch.eye(3)[[0, 0, 2, 0]]
    strong = normal(4, 3, dtype=torch.float32)
    reference = functional.cross_entropy(strong, torch.tensor([0, 0, 2, 0]), weight=torch.tensor([4 / 3, 1, 4]))
    torch.testing.assert_close(ConfidenceBasedCE(0.9, True)(weak, strong), reference)


@pytest.mark.parametrize("balance", [True, False])
def test_selflabel_without_confident_samples_is_a_zero_with_a_graph(balance):
    strong = normal(5, 3).requires_grad_()
    loss = ConfidenceBasedCE(0.99, balance)(torch.zeros(5, 3), strong)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(strong.grad, torch.zeros_like(strong))


def test_selflabel_threshold_is_exclusive_and_counts_by_cluster():
    criterion = ConfidenceBasedCE(0.5, True)
    weak = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 3.0]])
    labels = criterion.label(weak)
    assert labels.confident.tolist() == [False, True, True, True]
    assert labels.counts.tolist() == [1, 2]


def test_selflabel_gives_the_plain_view_no_gradient():
    weak, strong = normal(6, 3, scale=5).requires_grad_(), normal(6, 3).requires_grad_()
    ConfidenceBasedCE(0.5, True)(weak, strong).backward()
    assert weak.grad is None and strong.grad.abs().sum() > 0


def test_gradients_are_those_of_the_values():
    weak = normal(6, 3, scale=4)
    assert gradcheck(SimCLRLoss(0.1), normal(4, 2, 3, scale=0.5).requires_grad_())
    assert gradcheck(SCANLoss(5.0), (normal(5, 4).requires_grad_(), normal(5, 4, seed=1).requires_grad_()))
    for balance in (True, False):
        criterion = ConfidenceBasedCE(0.6, balance)
        assert gradcheck(lambda x, f=criterion: f(weak, x), normal(6, 3).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    a, b = normal(16, 10, scale=4).to(dtype), normal(16, 10, seed=1, scale=4).to(dtype)
    pairs = torch.stack([a, b], dim=1)
    assert torch.equal(SimCLRLoss(0.1)(pairs), SimCLRLoss(0.1)(pairs.float()))
    assert torch.equal(SCANLoss(5.0)(a, b).total, SCANLoss(5.0)(a.float(), b.float()).total)
    criterion = ConfidenceBasedCE(0.5, True)
    assert torch.equal(criterion(a, b), criterion(a.float(), b.float()))


def test_the_table_builds_the_losses_of_the_method_from_a_config():
    kwargs = {
        "simclr": {"temperature": 0.1},
        "scan": {"entropy_weight": 5.0},
        "confidence-cross-entropy": {"threshold": 0.99, "apply_class_balancing": True},
    }
    assert {name: type(CRITERIA[name](**kwargs[name])) for name in kwargs} == {
        "simclr": SimCLRLoss,
        "scan": SCANLoss,
        "confidence-cross-entropy": ConfidenceBasedCE,
    }
