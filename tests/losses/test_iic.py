"""IIC's loss against loops, closed forms, and what a batch of few clusters gives."""

import math

import numpy as np
import pytest
import torch

from losses import CRITERIA


def naive(logits, others):
    """The formula as loops over images and clusters, in float64."""
    p, q = (np.exp(x - x.max(1, keepdims=True)) for x in (logits, others))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    num, k = p.shape
    joint = np.zeros((k, k))
    for i in range(num):
        for a in range(k):
            for b in range(k):
                joint[a, b] += p[i, a] * q[i, b] / num
    joint = (joint + joint.T) / 2
    marginal = np.maximum(joint.sum(1), 2.2e-16)
    joint = np.maximum(joint, 2.2e-16)
    total = 0.0
    for a in range(k):
        for b in range(k):
            total -= joint[a, b] * (math.log(joint[a, b]) - math.log(marginal[a]) - math.log(marginal[b]))
    return total


@pytest.mark.parametrize(("num", "k", "scale"), [(7, 3, 1), (12, 5, 4), (4, 9, 30), (1, 2, 1)])
def test_the_loss_is_that_of_loops(num, k, scale):
    random = np.random.default_rng(num)
    logits, others = scale * random.normal(size=(2, num, k))
    found = CRITERIA["iic"]()(torch.from_numpy(logits), torch.from_numpy(others))
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(naive(logits, others), abs=1e-12)


@pytest.mark.parametrize("k", [2, 5, 50])
def test_identical_certain_assignments_give_minus_log_k(k):
    logits = 1000 * torch.eye(k).repeat(3, 1)
    assert float(CRITERIA["iic"]()(logits, logits)) == pytest.approx(-math.log(k), abs=1e-5)


@pytest.mark.parametrize("k", [2, 5])
def test_independent_assignments_give_0(k):
    first, second = (
        1000 * torch.eye(k)[index.flatten()] for index in torch.meshgrid(*[torch.arange(k)] * 2, indexing="ij")
    )
    assert float(CRITERIA["iic"]()(first, second)) == pytest.approx(0, abs=1e-5)
    same = torch.randn(1, k).repeat(9, 1)
    assert float(CRITERIA["iic"]()(same, same)) == pytest.approx(0, abs=1e-6)


def test_certain_logits_have_finite_gradients_in_half_precision_too():
    logits = (1000 * torch.eye(4)).to(torch.bfloat16).requires_grad_()
    loss = CRITERIA["iic"]()(logits, logits.roll(1, 0))
    loss.backward()
    assert loss.dtype == torch.float32
    assert bool(logits.grad.isfinite().all())


def test_logits_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="two times"):
        CRITERIA["iic"]()(torch.zeros(3, 4), torch.zeros(6, 4))
