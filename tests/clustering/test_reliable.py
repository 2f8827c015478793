"""Reliable images of small cases, chosen by hand."""

import torch

from clustering.reliable import choose_reliable, local_agreement

# Two clusters of five and three images; each image's row begins with itself.
CLUSTERS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
NEIGHBORS = torch.tensor(
    [[0, 1, 2], [1, 0, 5], [2, 0, 1], [3, 5, 6], [4, 0, 3], [5, 6, 7], [6, 5, 0], [7, 0, 1]]
)  # fmt: skip
AGREEMENT = [3, 2, 3, 1, 3, 3, 2, 1]


def certain(confidence, clusters=CLUSTERS):
    """Probabilities of two clusters with a given confidence each."""
    sure = torch.tensor(confidence).expand(len(clusters))
    return torch.where(torch.arange(2) == clusters[:, None], sure[:, None], 1 - sure[:, None])


def test_agreement_counts_the_image_itself():
    assert local_agreement(CLUSTERS, NEIGHBORS).tolist() == AGREEMENT


def test_agreement_comes_first_then_confidence():
    """Half of four, the expected size, and half of three: two images each. Image 4 is surer than 0 and 2."""
    confidence = [0.7, 0.99, 0.6, 0.99, 0.9, 0.6, 0.6, 0.99]
    assert choose_reliable(certain(confidence), NEIGHBORS, 0.5).tolist() == [0, 4, 5, 6]


def test_a_tie_goes_by_number():
    assert choose_reliable(certain(0.75), NEIGHBORS, 0.5).tolist() == [0, 2, 5, 6]


def test_all_of_a_cluster_of_the_expected_size_and_no_more():
    """Cluster 0 is larger than expected, so that its worst image, number 3, is left out."""
    assert choose_reliable(certain(0.75), NEIGHBORS, 1.0).tolist() == [0, 1, 2, 4, 5, 6, 7]


def test_no_cluster_in_use_is_left_without():
    assert choose_reliable(certain(0.75), NEIGHBORS, 0.01).tolist() == [0, 5]


def test_an_empty_cluster_gives_none():
    probabilities = torch.cat([certain(0.75), torch.zeros(8, 1)], dim=1)
    assert choose_reliable(probabilities, NEIGHBORS, 1.0).tolist() == [0, 2, 4, 5, 6, 7]  # 8 / 3, rounded, of both


def test_a_prior_lets_the_larger_cluster_give_more():
    """Shares of .75 and .25: six and two images are expected, of which half, at most half of those there are."""
    assert choose_reliable(certain(0.75), NEIGHBORS, 0.5, [0.75, 0.25]).tolist() == [0, 2, 5]
    assert choose_reliable(certain(0.75), NEIGHBORS, 1.0, [0.75, 0.25]).tolist() == [0, 1, 2, 3, 4, 5, 6]
