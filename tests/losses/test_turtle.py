import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from losses.turtle import TURTLELoss


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row):
    exponentials = np.exp(np.asarray(row) - np.max(row))
    return exponentials / exponentials.sum()


def naive(labels, classifiers, weight):
    size, num_clusters = labels[0].shape
    cross_entropy = entropy = 0.0
    for label, classifier in zip(labels, classifiers, strict=True):
        for i in range(size):
            tau = np.mean([softmax(own[i]) for own in labels], axis=0)
            predicted = softmax(classifier[i])
            cross_entropy -= sum(tau[c] * math.log(predicted[c]) for c in range(num_clusters)) / size
        share = np.mean([softmax(row) for row in label], axis=0)
        entropy -= sum(q * math.log(q) for q in share)
    return cross_entropy - weight * entropy, cross_entropy, entropy


@pytest.mark.parametrize("num_spaces", [1, 2])
def test_the_loss_is_that_of_loops(num_spaces):
    labels = [2 * normal(6, 4, seed=i) for i in range(num_spaces)]
    classifiers = [2 * normal(6, 4, seed=9 + i) for i in range(num_spaces)]
    expected = naive([x.numpy() for x in labels], [x.numpy() for x in classifiers], 10.0)
    assert [x.item() for x in TURTLELoss()(labels, classifiers)] == pytest.approx(expected, abs=1e-12)


def test_leading_dimensions_are_labelings_of_their_own():
    labels, classifiers = normal(3, 6, 4), normal(3, 6, 4, seed=1)
    together = TURTLELoss(2.0)([labels], [classifiers]).total
    alone = [TURTLELoss(2.0)([x], [y]).total for x, y in zip(labels, classifiers, strict=True)]
    assert torch.allclose(together, torch.stack(alone))


def test_even_labels_that_are_predicted_with_certainty_are_best():
    logits = 500 * torch.eye(4, dtype=torch.float64)
    assert TURTLELoss(10.0)([logits], [logits]).total.item() == pytest.approx(-10 * math.log(4))
    collapsed = logits[:1].repeat(4, 1)
    assert TURTLELoss(10.0)([collapsed], [collapsed]).total.item() == pytest.approx(0, abs=1e-5)


def test_gradient():
    classifiers = [normal(3, 3, seed=7), normal(3, 3, seed=8)]
    assert gradcheck(
        lambda a, b: TURTLELoss()([a, b], classifiers).total,
        [normal(3, 3, seed=i).requires_grad_() for i in (0, 1)],
    )


def test_as_many_classifiers_as_label_layers():
    with pytest.raises(ValueError, match="1 for 2"):
        TURTLELoss()([torch.zeros(2, 3)] * 2, [torch.zeros(2, 3)])
