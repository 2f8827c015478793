import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from losses.temi import TEMILoss


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row):
    exponentials = np.exp(np.asarray(row) - np.max(row))
    return exponentials / exponentials.sum()


def naive(s, s_neighbor, t, t_neighbor, q, beta, momentum):
    """The formulas, one image and one cluster at a time."""
    num_heads, size, num_clusters = s.shape
    q = q.copy()
    for h in range(num_heads):
        mean = np.mean([softmax(x) for x in [*t[h], *t_neighbor[h]]], axis=0)
        q[h] = momentum * q[h] + (1 - momentum) * mean
    losses = np.zeros(num_heads)
    for i in range(size):
        weight = np.mean([softmax(t[h, i]) @ softmax(t_neighbor[h, i]) for h in range(num_heads)])
        for h in range(num_heads):
            pmi = 0.0
            for student, teacher in ((s[h, i], t_neighbor[h, i]), (s_neighbor[h, i], t[h, i])):
                a, b = softmax(student), softmax(teacher)
                pmi += math.log(sum((a[c] * b[c]) ** beta / q[h, c] for c in range(num_clusters))) / 2
            losses[h] -= weight * pmi / size
    return losses, q


@pytest.mark.parametrize("beta", [0.6, 1.0])
def test_the_loss_is_that_of_loops(beta):
    logits = [3 * normal(2, 5, 4, seed=i) for i in range(4)]
    criterion = TEMILoss(4, 2, beta, momentum=0.9).double()
    q = criterion.q.numpy().copy()
    for _ in range(2):  # q moves on between steps
        losses, q = naive(*(x.numpy() for x in logits), q, beta, 0.9)
        found = criterion(*logits)
        assert np.allclose(found.heads.numpy(), losses, atol=1e-12)
        assert found.total.item() == pytest.approx(losses.mean(), abs=1e-12)
        assert np.allclose(criterion.q.numpy(), q, atol=1e-12)


def test_certain_agreement_on_even_clusters_gives_minus_log_k():
    logits = 200 * torch.eye(4, dtype=torch.float64).repeat(3, 1)[None]
    assert TEMILoss(4, momentum=0.0).double()(logits, logits, logits, logits).total.item() == pytest.approx(
        -math.log(4)
    )


def test_all_images_in_one_cluster_gain_nothing():
    logits = torch.zeros(1, 8, 4, dtype=torch.float64)
    logits[..., 0] = 200
    assert TEMILoss(4, momentum=0.0).double()(logits, logits, logits, logits).total.item() == pytest.approx(0, abs=1e-6)


def test_only_the_student_has_a_gradient_and_it_is_right():
    teacher = [normal(1, 3, 3, seed=i) for i in (2, 3)]

    def loss(s, s_neighbor):
        return TEMILoss(3).double()(s, s_neighbor, *teacher).total

    assert gradcheck(loss, [normal(1, 3, 3, seed=i).requires_grad_() for i in (0, 1)])
    logits = [normal(1, 3, 3, seed=i).requires_grad_() for i in range(4)]
    TEMILoss(3).double()(*logits).total.backward()
    assert [x.grad is not None for x in logits] == [True, True, False, False]


def test_logits_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\[2, B, 4\]"):
        TEMILoss(4, 2)(*[torch.zeros(2, 5, 3)] * 4)
