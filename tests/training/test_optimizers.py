"""A step that is skipped: weights stay as they are, and the scaler of fp16 takes it as no step at all."""

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from training.optimizers import OPTIMIZERS, sgd, take_step


class OnApple:
    """As much of a flag on an Apple GPU as a step asks for."""

    device = torch.device("mps")

    def __init__(self, value):
        self.item = lambda: value


@pytest.mark.parametrize("kind", [torch.tensor, OnApple])
@pytest.mark.parametrize("enabled", [False, True])
def test_a_skipped_step_changes_nothing_and_the_next_one_is_taken(enabled, kind):
    scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=8.0)
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = sgd([weight], lr=0.5)
    for skip, expected in ((True, [1.0, 2.0]), (False, [0.5, 1.5]), (True, [0.5, 1.5])):
        optimizer.zero_grad()
        scaler.scale(weight.sum()).backward()
        take_step(optimizer, scaler, kind(skip))
        assert weight.tolist() == expected


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_one_kernel_takes_the_step_but_not_on_apples_gpus_where_it_ignores_skips(name):
    with FakeTensorMode():
        for device, fused in (("cpu", True), ("cuda", True), ("mps", False)):
            weight = nn.Parameter(torch.empty(2, device=device))
            for parameters in ([weight], [{"params": [weight]}]):
                assert OPTIMIZERS[name](parameters, lr=0.1).defaults["fused"] is fused
