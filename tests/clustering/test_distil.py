import math

import pytest
import torch

from clustering.candidate import predict
from clustering.distil import distil, find_factor


def test_the_factor_is_that_of_the_closed_form():
    # Against a logit of 0, a has probability 1 / (1 + exp(-m a)) > 0.9 where m a > log 9; five of 1..10 are 6 or more.
    logits = torch.stack([torch.arange(1.0, 11.0), torch.zeros(10)], dim=1).double()
    assert find_factor(logits, 0.9) == pytest.approx(math.log(9) / 6, rel=1e-9)


@pytest.mark.parametrize("num_clusters", [2, 4])
def test_a_distilled_head_keeps_the_clusters_and_is_sure_of_half(num_clusters):
    torch.manual_seed(0)
    clusters = torch.arange(120) % num_clusters
    features = 100 + 5 * torch.eye(8)[clusters] + torch.randn(120, 8)
    head = distil(features, clusters, num_clusters, 0.9)
    probabilities = predict(head, features)
    assert (probabilities.argmax(1) == clusters).float().mean() > 0.95
    # The sixtieth is at the threshold, up to what float32 rounds.
    assert [(probabilities.max(1).values > 0.9 + margin).sum() for margin in (-1e-4, 1e-4)] == [60, 59]


def test_a_cluster_without_images_gets_none():
    torch.manual_seed(0)
    clusters = 2 * (torch.arange(60) % 2)  # of 4, the second and the last are empty
    features = torch.randn(60, 3) + 4 * clusters[:, None]
    assert torch.equal(predict(distil(features, clusters, 4, 0.9), features).argmax(1), clusters)
    alone = predict(distil(features, torch.ones(60, dtype=torch.int64), 4, 0.9), features)
    assert (alone.argmax(1) == 1).all()
