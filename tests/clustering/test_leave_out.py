"""What belongs in no cluster: distances and shares worked out by hand, and foreign images among groups."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from clustering.leave_out import fit_leave_out
from models.leave_out import LeaveOut


def on_circle(degrees):
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_distances_are_those_to_the_kth_neighbor_an_image_being_its_own_first():
    """At 0, 10, 20 and 90 degrees; the second neighbors are 10, 10, 10 and 70 degrees away."""
    found = LeaveOut(4, 2)
    found.reference.copy_(on_circle([0.0, 10, 20, 90]))
    found.num_neighbors.fill_(2)
    expected = 1 - torch.deg2rad(torch.tensor([10.0, 10, 10, 70])).cos()
    features = 3 * on_circle([0.0, 10, 20, 90])  # their length does not matter
    assert torch.allclose(found.distances(features), expected, atol=1e-3)
    assert not found(features).any()
    found.farthest.fill_(0.5)
    assert found(features).tolist() == [False, False, False, True]


def test_an_image_is_never_its_own_neighbor_however_few_there_are():
    """Four images in four clusters, half an image a mean cluster: the one at 90 degrees is far from its nearest."""
    features = on_circle([0.0, 10, 20, 90])
    found = fit_leave_out(features, 4, 0.25)
    assert int(found.num_neighbors) == 2 and found(features).tolist() == [False, False, False, True]


def groups(num_foreign, seed=0):
    """Four tight groups of 50 in 16 dimensions, and images in directions of their own."""
    generator = torch.Generator().manual_seed(seed)
    centers = functional.normalize(torch.randn(4, 16, generator=generator), dim=1).repeat_interleave(50, 0)
    own = centers + 0.1 * torch.randn(200, 16, generator=generator)
    return torch.cat([own, torch.randn(num_foreign, 16, generator=generator)])


@pytest.mark.parametrize("share", [0.1, 0.033, 0.5])
def test_a_share_is_as_many_images_and_those_the_farthest(share):
    features = groups(20)
    found = fit_leave_out(features, 4, share)
    left = found(features)
    assert left.sum() == round(share * 220)
    assert found.distances(features)[left].min() > found.distances(features)[~left].max()
    assert not fit_leave_out(features, 4, 0.001)(features).any()  # less than half an image


def test_small_clusters_stay_where_they_are_expected():
    """300, 60 and 30 images: half a mean cluster are 65, half of the smallest one 15."""
    centers = functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    truth = torch.arange(3).repeat_interleave(torch.tensor([300, 60, 30]))
    features = centers[truth] + 0.1 * torch.randn(390, 16, generator=torch.Generator().manual_seed(1))
    assert fit_leave_out(features, 3)(features)[truth > 0].all()
    found = fit_leave_out(features, 3, smallest=3 * 30 / 390)
    assert int(found.num_neighbors) == 15
    assert found(features).float().mean() < 0.05


def test_many_clusters_have_references_enough():
    features = torch.randn(5000, 4, generator=torch.Generator().manual_seed(0))
    found = fit_leave_out(features, 200)
    assert len(found.reference) == 4000 and int(found.num_neighbors) == 10
    assert len(fit_leave_out(features, 10).reference) == 2000


def test_a_share_finds_foreign_images_and_so_does_the_rule_that_leaves_nothing_out_where_there_are_none():
    features = groups(20)
    foreign = torch.arange(220) >= 200
    for share, least in ((20 / 220, 0.9), (None, 0.8)):
        left = fit_leave_out(features, 4, share)(features)
        assert (left & foreign).sum() >= least * left.sum() and (left & foreign).sum() >= 18
    assert fit_leave_out(groups(0), 4)(groups(0)).float().mean() < 0.05


def test_a_group_of_foreign_images_that_are_alike_is_far_too():
    """Ten copies of one direction, fewer than half a mean cluster: each has nine near neighbors, and no 26."""
    direction = functional.normalize(torch.ones(1, 16), dim=1).repeat(10, 1)
    features = torch.cat(
        [groups(0), direction + 0.01 * torch.randn(10, 16, generator=torch.Generator().manual_seed(1))]
    )
    assert fit_leave_out(features, 4, 10 / 210)(features)[200:].all()


def test_images_that_are_all_alike_stay_one_by_one_as_together():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(21, 1280, generator=generator)
    features = torch.cat([draws[:1].repeat(180, 1), draws[1:]])
    found = fit_leave_out(features, 4)
    together, alone = found(features), torch.cat([found(row) for row in features.split(1)])
    assert torch.equal(together, alone) and not together[:180].any() and together[180:].all()


def test_the_rule_is_the_whisker_of_a_box_plot_of_the_distances():
    features = groups(20)
    found = fit_leave_out(features, 4)
    distances = found.distances(features).double().numpy()
    low, high = np.percentile(distances, [25, 75])
    assert float(found.farthest) == pytest.approx(high + 1.5 * (high - low), rel=1e-5)
    assert int(found.num_neighbors) == round(220 / 8)


def test_of_many_images_some_are_the_references_and_the_same_seed_draws_the_same():
    features = torch.randn(2500, 4, generator=torch.Generator().manual_seed(2))
    one, same, other = (fit_leave_out(features, 10, seed=seed) for seed in (0, 0, 1))
    assert one.reference.shape == (2000, 4) and one.reference.dtype == torch.float16
    assert one.reference.equal(same.reference) and not one.reference.equal(other.reference)
    assert int(one.num_neighbors) == 100
