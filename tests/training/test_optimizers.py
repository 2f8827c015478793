"""A step that is skipped: weights stay as they are, and the scaler of fp16 takes it as no step at all."""

import pytest
import torch
from torch import nn

from training.optimizers import sgd, take_step


@pytest.mark.parametrize("enabled", [False, True])
def test_a_skipped_step_changes_nothing_and_the_next_one_is_taken(enabled):
    scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=8.0)
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = sgd([weight], lr=0.5)
    for skip, expected in ((True, [1.0, 2.0]), (False, [0.5, 1.5]), (True, [0.5, 1.5])):
        optimizer.zero_grad()
        scaler.scale(weight.sum()).backward()
        take_step(optimizer, scaler, torch.tensor(skip))
        assert weight.tolist() == expected
