"""FixMatch's loss against a loop written from the formula, and where the answer is known."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from losses.fixmatch import FixMatch
from tests.losses.test_losses import normal, softmax


def naive(weak, strong, labeled, targets, threshold, weight):
    known = [-math.log(softmax(row)[target]) for row, target in zip(labeled, targets, strict=True)]
    guessed = 0.0
    for plain, view in zip(weak, strong, strict=True):
        p = softmax(plain)
        if max(p) > threshold:
            guessed -= math.log(softmax(view)[p.index(max(p))])
    return sum(known) / len(known) + weight * guessed / len(weak)


def batch(num=30, num_labeled=7):
    targets = torch.arange(num_labeled) % 4
    return normal(num, 4, scale=3), normal(num, 4, seed=1, scale=3), normal(num_labeled, 4, seed=2), targets


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.95])
def test_it_is_the_formula(threshold, weight):
    views = batch()
    expected = naive(*(view.tolist() for view in views), threshold, weight)
    assert FixMatch(threshold, weight)(*views).item() == pytest.approx(expected, rel=1e-12)
    single = FixMatch(threshold, weight)(*(view.float() for view in views[:3]), views[3])
    assert single.item() == pytest.approx(expected, rel=1e-5)


def test_without_confidence_only_labels_count():
    weak, strong, labeled, targets = batch()
    strong.requires_grad_()
    loss = FixMatch(0.5)(torch.zeros_like(weak), strong, labeled, targets)
    assert loss.item() == pytest.approx(functional.cross_entropy(labeled, targets).item(), rel=1e-14)
    loss.backward()
    assert not strong.grad.any()


def test_what_is_not_confident_counts_in_the_mean():
    """One of four plain views is confident; all other logits are equal: log 3 of the labels, and a quarter of log 3."""
    weak = torch.zeros(4, 3)
    weak[2, 1] = 20
    loss = FixMatch(0.9)(weak, torch.zeros(4, 3), torch.zeros(5, 3), torch.tensor([0, 1, 2, 0, 1]))
    assert loss.item() == pytest.approx(1.25 * math.log(3), rel=1e-6)


def test_the_threshold_is_exclusive():
    assert not FixMatch(0.5).label(torch.zeros(3, 2)).confident.any()
    assert FixMatch(0.49).label(torch.zeros(3, 2)).confident.all()


def test_gradients():
    weak, strong, labeled, targets = batch(6, 3)
    strong, labeled = strong.requires_grad_(), labeled.requires_grad_()
    assert gradcheck(lambda s, k: FixMatch(0.6, 0.7)(weak, s, k, targets), (strong, labeled))


def test_no_gradient_flows_into_the_plain_views():
    weak, strong, labeled, targets = batch()
    FixMatch(0.3)(weak.requires_grad_(), strong.requires_grad_(), labeled, targets).backward()
    assert weak.grad is None
    assert strong.grad.any()
