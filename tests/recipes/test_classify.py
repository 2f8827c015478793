"""What a classifier of the labels finds doubtful."""

import numpy as np
import pytest
import torch

from clustering.classifier import Classifier
from models.heads import LinearHead
from recipes.classify import look_again


def test_labeled_images_are_judged_by_a_classifier_that_had_not_seen_them():
    """The head says of rows 0 to 3 class 0, 1, 0, 1 with logits of 2 against 0; left out, 0 and 2 were said to be 1."""
    head = LinearHead([2], 2)
    with torch.no_grad():
        head.weight.copy_(2 * torch.eye(2))
        head.bias.zero_()
    left_out = torch.tensor([[0.3, 0.7], [0.4, 0.6]])
    likely, sure = look_again(Classifier(head, 0.5, 1.0, left_out), torch.eye(2)[[0, 1, 0, 1]], ["a", "", "b", ""])
    assert likely.tolist() == [1, 1, 1, 1]
    say = 1 / (1 + np.exp(-2))
    assert sure == pytest.approx([0.3, say, 0.6, say], abs=1e-6)
    likely, sure = look_again(Classifier(head, None, 1.0, None), torch.eye(2)[[0, 1, 0, 1]], ["a", "", "b", ""])
    assert likely.tolist() == [0, 1, 0, 1] and sure == pytest.approx([say, say, 1 - say, say], abs=1e-6)
