"""IIC's warning: what unrelated views seem to tell each other within a batch is no information."""

import math

import pytest
import torch

from losses import CRITERIA
from methods import iic


def confident(clusters, num_clusters):
    return 50.0 * torch.nn.functional.one_hot(clusters, num_clusters).float()


@pytest.mark.parametrize("num_clusters", [10, 50])
@pytest.mark.parametrize("related", [False, True])
def test_views_are_compared_with_unrelated_ones(num_clusters, related, capsys):
    """Of confident clusters in a batch of 256, chance alone is worth more than the 2 % of log K that are warned of."""
    torch.manual_seed(0)
    informations = []
    for _ in range(20):
        plain = torch.randint(num_clusters, (256,))
        other = plain if related else torch.randint(num_clusters, (256,))
        outputs = iter([[confident(plain, num_clusters)], [confident(other, num_clusters)]])
        loss, losses, by_chance = iic.step(
            lambda images, left=outputs: next(left), CRITERIA["iic"](), slice(0, 1), *images()
        )
        assert losses.tolist() == [pytest.approx(loss.item())]
        assert -by_chance > 0.02 * math.log(num_clusters)
        informations.append(by_chance - loss)
    iic.warn_of_no_information(float(torch.stack(informations).mean()), num_clusters, 0)
    warned = capsys.readouterr().err
    assert ("said almost nothing" in warned) is not related
    assert related or "likely causes are the learning rate" in warned


def images():
    return torch.zeros(256, 3, 4, 4), torch.zeros(256, 3, 4, 4)
