"""A step that is skipped: weights stay as they are, and the scaler of fp16 takes it as no step at all."""

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from training.optimizers import OPTIMIZERS, sgd, take_step


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


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_run_begun_on_an_apple_gpu_goes_on_elsewhere_and_skips(name):
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = OPTIMIZERS[name]([weight], lr=0.5)
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["fused"] = False
    optimizer.load_state_dict(state)
    for skip in (True, False):
        weight.sum().backward()
        take_step(optimizer, torch.amp.GradScaler("cpu", enabled=False), torch.tensor(skip))
        assert (weight.tolist() == [1.0, 2.0]) is skip


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_one_kernel_takes_the_step_but_not_on_apples_gpus_where_it_ignores_skips(name):
    with FakeTensorMode():
        for device, fused in (("cpu", True), ("cuda", True), ("mps", False)):
            weight = nn.Parameter(torch.empty(2, device=device))
            for parameters in ([weight], [{"params": [weight]}]):
                assert OPTIMIZERS[name](parameters, lr=0.1).defaults["fused"] is fused
