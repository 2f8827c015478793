"""Losses of other pretext tasks against loops written from the formulas, closed forms, and numerical gradients."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from losses.byol import BYOLLoss
from losses.cross_entropy import CrossEntropy
from losses.instdisc import InstanceDiscrimination, InstanceNCE


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape, seed=0):
    return functional.normalize(normal(*shape, seed=seed), dim=-1)


def dot(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def naive_softmax(features, bank, indices, temperature):
    losses = []
    for f, i in zip(features, indices, strict=True):
        exponentials = [math.exp(dot(v, f) / temperature) for v in bank]
        losses.append(-math.log(exponentials[i] / sum(exponentials)))
    return losses


def naive_nce(features, bank, indices, noise, temperature, scale):
    ratio = len(noise[0]) / len(bank)
    losses = []
    for f, i, drawn in zip(features, indices, noise, strict=True):
        p = math.exp(dot(bank[i], f) / temperature) / scale
        loss = -math.log(p / (p + ratio))
        for j in drawn:
            p = math.exp(dot(bank[j], f) / temperature) / scale
            loss -= math.log(ratio / (p + ratio))
        losses.append(loss)
    return losses


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_the_softmax_over_a_bank_is_the_formula(temperature):
    features, bank, indices = unit(4, 5), unit(9, 5, seed=1), [3, 0, 8, 5]
    found = InstanceDiscrimination(temperature)(features, bank, torch.tensor(indices))
    assert found.tolist() == pytest.approx(naive_softmax(features, bank, indices, temperature), rel=1e-12)


def test_a_bank_of_equal_vectors_gives_log_n():
    bank = functional.normalize(torch.ones(11, 4), dim=1)
    losses = InstanceDiscrimination(0.1)(bank[:3], bank, torch.arange(3))
    assert losses.tolist() == pytest.approx([math.log(11)] * 3, abs=1e-5)


def nce_of(features, bank, indices, noise, temperature=0.5, scale=20.0):
    criterion = InstanceNCE(temperature, noise.shape[1])
    scores = criterion.scores(features, bank, torch.cat([indices[:, None], noise], 1))
    return criterion(scores, len(bank), torch.tensor(scale, dtype=torch.float64))


def test_the_estimate_is_its_definition():
    features, bank, indices = unit(4, 5), unit(9, 5, seed=1), [3, 0, 8, 5]
    noise = torch.randint(9, (4, 6), generator=torch.Generator().manual_seed(2))
    found = nce_of(features, bank, torch.tensor(indices), noise)
    expected = naive_nce(features, bank, indices, noise.tolist(), 0.5, 20.0)
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_the_estimate_of_equal_vectors_is_that_of_coins():
    """With Z = N·exp(v·f/t) every vector has P = 1/N, which is that of m = 1 noise: both answers cost log 2."""
    bank = functional.normalize(torch.ones(6, 4, dtype=torch.float64), dim=1)
    found = nce_of(bank[:2], bank, torch.arange(2), torch.tensor([[3], [4]]), 1.0, 6 * math.e)
    assert found.tolist() == pytest.approx([2 * math.log(2)] * 2, rel=1e-12)


def naive_byol(predictions, targets):
    def cosine(a, b):
        return np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)

    losses = []
    for q, z in zip(predictions.numpy(), targets.numpy(), strict=True):
        losses += [2 - 2 * cosine(q[0], z[1]), 2 - 2 * cosine(q[1], z[0])]
    return sum(losses) / len(losses)


def test_byol_is_the_formula():
    predictions, targets = normal(5, 2, 7), normal(5, 2, 7, seed=1)
    assert BYOLLoss()(predictions, targets).item() == pytest.approx(naive_byol(predictions, targets), rel=1e-12)


def test_byol_of_exact_opposite_and_orthogonal_predictions():
    targets = torch.eye(4).view(2, 2, 4)
    for predictions, expected in ((3 * targets.flip(1), 0.0), (-targets.flip(1), 4.0), (targets, 2.0)):
        assert BYOLLoss()(predictions, targets).item() == pytest.approx(expected, abs=1e-6)


def test_cross_entropy_is_the_formula():
    logits, targets = normal(6, 3), [2, 0, 1, 1, 0, 2]
    rows = [(row.exp() / row.exp().sum()).tolist() for row in logits]
    expected = -sum(math.log(row[t]) for row, t in zip(rows, targets, strict=True)) / 6
    assert CrossEntropy()(logits, torch.tensor(targets)).item() == pytest.approx(expected, rel=1e-12)
    assert CrossEntropy()(torch.zeros(2, 5), torch.tensor([0, 4])).item() == pytest.approx(math.log(5), rel=1e-6)


def test_gradients_are_the_numerical_ones_and_none_flows_into_bank_or_targets():
    features, bank, indices = unit(3, 4).requires_grad_(), unit(5, 4, seed=1).requires_grad_(), torch.tensor([4, 0, 2])
    noise = torch.tensor([[1, 1], [3, 2], [0, 4]])
    assert gradcheck(lambda f: InstanceDiscrimination(0.5)(f, bank, indices), features)
    assert gradcheck(lambda f: nce_of(f, bank, indices, noise), features)
    predictions, targets = normal(3, 2, 4).requires_grad_(), normal(3, 2, 4, seed=1).requires_grad_()
    assert gradcheck(lambda q: BYOLLoss()(q, targets), predictions)
    nce_of(features, bank, indices, noise).sum().backward()
    InstanceDiscrimination(0.5)(features, bank, indices).sum().backward()
    BYOLLoss()(predictions, targets).backward()
    assert bank.grad is None
    assert targets.grad is None
