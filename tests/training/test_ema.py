"""The moving average of parameters, worked out by hand."""

import torch
from torch import nn

from training.ema import EMA, early_momentum, follow


def parameters(*values):
    return [nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in values]


def test_three_updates_by_hand():
    """α = 0.75: the shadow moves a quarter of the way, and the parameter continues from there."""
    (weight,) = parameters([8.0, -8.0])
    average = EMA([weight], 0.75)
    for step, expected in ((4.0, 9.0), (-4.0, 8.0), (8.0, 10.0)):
        with torch.no_grad():
            weight += torch.tensor([step, -step])
        average.update()
        assert weight.tolist() == [expected, -expected]


def test_a_skipped_step_changes_nothing():
    weights = [nn.Parameter(torch.randn(7, generator=torch.Generator().manual_seed(0))) for _ in range(3)]
    before = [weight.detach().clone() for weight in weights]
    average = EMA(weights, 0.999)
    for _ in range(5):
        average.update()
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def test_batchnorm_statistics_stay_the_models_own():
    norm = nn.BatchNorm1d(3)
    average = EMA(norm.parameters(), 0.5)
    norm(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    statistics = norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()
    average.update()
    assert all(map(torch.equal, statistics, (norm.running_mean, norm.running_var, norm.num_batches_tracked)))
    assert not torch.equal(norm.running_mean, torch.zeros(3))


def test_it_is_told_apart_from_the_weights_in_a_checkpoint():
    (weight,) = parameters([4.0])
    first = EMA([weight], 0.5)
    with torch.no_grad():
        weight.fill_(8.0)
    (other,) = parameters([8.0])
    second = EMA([other], 0.5)
    second.load_state_dict(first.state_dict())
    for average in (first, second):
        average.update()
    assert weight.item() == other.item() == 6.0


def test_early_momentum_is_that_of_the_last_tenth():
    """1/10 before the first step, 2/11 after one; after 990 steps 991/1000, and .99 from 889 on."""
    assert [early_momentum(1.0, n) for n in (0, 1, 990)] == [1 / 10, 2 / 11, 991 / 1000]
    assert [early_momentum(0.99, n) for n in (888, 890, 10**6)] == [889 / 898, 0.99, 0.99]
    assert early_momentum(0.0, 5) == 0


def test_a_network_that_follows_in_its_statistics_too():
    """A quarter of the way, weights and BatchNorm's means; the count of batches is the online network's."""
    online, target = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    for network, value in ((online, 8.0), (target, 4.0)):
        for tensor in (network.weight, network.bias, network.running_mean, network.running_var):
            tensor.data.fill_(value)
        network.num_batches_tracked.fill_(int(value))
    follow(target, online, 0.75)
    assert [target.weight[0].item(), target.running_mean[0].item(), target.num_batches_tracked.item()] == [5.0, 4.0, 4]
    follow(target, online, 0.75, statistics=True)
    values = (target.weight, target.bias, target.running_mean, target.running_var)
    assert [value.tolist() for value in values] == [[5.75] * 2, [5.75] * 2, [5.0] * 2, [5.0] * 2]
    assert target.num_batches_tracked == 8
