"""Learning rates worked out by hand."""

import math

import pytest

from training.schedule import SCHEDULES, learning_rate


def test_constant():
    assert [learning_rate("constant", 0.3, epoch, 4) for epoch in range(4)] == [0.3] * 4


def test_cosine():
    """Lowest 0.4 · 0.1³ = 0.0004; at a quarter, half, three quarters the cosine is √½, 0, -√½."""
    rates = [learning_rate("cosine", 0.4, epoch, 8, lr_decay_rate=0.1) for epoch in range(8)]
    half = 0.3996 / 2
    assert rates[0] == pytest.approx(0.4)
    assert rates[2] == pytest.approx(0.0004 + half * (1 + math.sqrt(0.5)))
    assert rates[4] == pytest.approx(0.0004 + half)
    assert rates[6] == pytest.approx(0.0004 + half * (1 - math.sqrt(0.5)))
    assert rates == sorted(rates, reverse=True)
    assert learning_rate("cosine", 0.4, 0, 1) == pytest.approx(0.4)


def test_cosine_does_not_move_within_an_epoch():
    assert learning_rate("cosine", 0.4, 3, 8, progress=0.9) == learning_rate("cosine", 0.4, 3, 8)


def test_step():
    """A milestone counts from the epoch after it: epochs 0, 1 | 2, 3 | 4 and later for milestones 1 and 3."""
    kwargs = {"lr_decay_epochs": [1, 3], "lr_decay_rate": 0.5}
    rates = [learning_rate("step", 8.0, epoch, 6, **kwargs) for epoch in range(6)]
    assert rates == [8, 8, 4, 4, 2, 2]


@pytest.mark.parametrize("scheduler", SCHEDULES)
def test_warm_up_rises_step_by_step(scheduler):
    """2 of 40 epochs: zero at first, a quarter after half an epoch, whole from epoch 2 on."""
    kwargs = {"lr_decay_epochs": [30]} if scheduler == "step" else {}
    plain = [learning_rate(scheduler, 1.0, epoch, 40, **kwargs) for epoch in range(40)]
    for epoch, progress, share in ((0, 0, 0), (0, 0.5, 0.25), (1, 0, 0.5), (1, 0.5, 0.75), (2, 0, 1), (39, 0.9, 1)):
        rate = learning_rate(scheduler, 1.0, epoch, 40, progress, warmup_epochs=2, **kwargs)
        assert rate == pytest.approx(share * plain[epoch])


def test_warm_up_takes_at_most_a_tenth_of_the_run():
    assert learning_rate("constant", 1.0, 1, 10, warmup_epochs=5) == 1
    assert learning_rate("constant", 1.0, 0, 1, 0.05, warmup_epochs=5) == pytest.approx(0.5)
    assert learning_rate("constant", 1.0, 0, 1, 0.1, warmup_epochs=5) == 1
