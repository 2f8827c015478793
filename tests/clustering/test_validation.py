"""What is printed of a clustering stage while it trains."""

from types import SimpleNamespace

import pytest
import torch

from clustering.validation import Validator, warn_of_collapse, warn_of_lost_confidence
from models.models import ClusteringModel
from system.runtime import Runtime


def test_the_head_of_lowest_loss_is_the_best_and_the_first_in_a_tie():
    """Two pairs of points, each the other's neighbor; a sharper head agrees more, with the same mean."""
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    model = ClusteringModel({"backbone": torch.nn.Identity(), "dim": 2}, 2, nheads=3).requires_grad_(False)
    for head, sharpness in zip(model.cluster_head, (1.0, 5.0, 5.0), strict=True):
        head.weight.copy_(sharpness * torch.eye(2))
        head.bias.zero_()
    val = SimpleNamespace(images=points, has_labels=False)
    neighbors = torch.tensor([[0, 1], [1, 0], [2, 3], [3, 2]])
    embedder = SimpleNamespace(runtime=Runtime.start("cpu"), embed=lambda *args, **kwargs: points)
    best = Validator(val, neighbors, embedder).best_head(model)
    p = torch.tensor(5.0).sigmoid()
    assert best.head == 1 and best.cluster_sizes.tolist() == [2, 2] and best.monitored == {}
    assert best.loss == pytest.approx(float(-(p * p + (1 - p) ** 2).log()) - torch.tensor(2.0).log().item(), abs=1e-6)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([0, 90, 0], "100 % of the validation images are in one cluster: training has collapsed"),
        ([1, 99, 0, 0], "99 % of the validation images are in one cluster: training has collapsed"),
        ([30, 0, 30, 0], "2 of 4 clusters are empty"),
        ([94, 4, 1, 1], "very unequal size"),
        ([30, 20, 10], ""),
        ([1, 1, 0, 0], ""),
        ([5], ""),
    ],
)
def test_collapse_is_told_in_plain_words(capsys, sizes, words):
    warn_of_collapse(torch.tensor(sizes), len(sizes))
    said = capsys.readouterr().err
    assert words in said
    assert bool(said) == bool(words)


@pytest.mark.parametrize(
    ("confident", "warned"), [([], False), ([100], False), ([100, 90], False), ([100, 150, 89], True)]
)
def test_fewer_confident_samples_than_in_the_first_epoch_are_told(capsys, confident, warned):
    warn_of_lost_confidence(confident)
    said = capsys.readouterr().err
    assert said.startswith("warning: 89 samples were confident in this epoch, 100 in the first") if warned else not said
