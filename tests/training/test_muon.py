"""Muon against its definition in NumPy: what becomes of singular values, and a step of each kind of parameter."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from system.errors import ConfigError
from training.muon import orthogonalize
from training.optimizers import muon, take_step
from utils.config import REPOSITORY, load_config

CONFIGS = REPOSITORY / "configs"
SCALER = torch.amp.GradScaler("cpu", enabled=False)


def quintic(x):
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    return x


def by_svd(matrix):
    u, values, v = np.linalg.svd(matrix, full_matrices=False)
    return u @ np.diag(quintic(values / np.linalg.norm(matrix))) @ v


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (9, 9), (1, 5), (5, 1)])
def test_singular_values_become_what_the_published_quintic_makes_of_them(shape):
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = orthogonalize(matrix).numpy()
    np.testing.assert_allclose(found, by_svd(matrix.numpy()), rtol=0, atol=1e-9)
    values = np.linalg.svd(orthogonalize(matrix.float()).numpy(), compute_uv=False)
    assert values.max() < 1.21
    if shape != (9, 9):  # a square one may have values near 0
        assert values.min() > 0.67


def test_orthogonal_rows_of_one_length_stay_orthogonal():
    found = orthogonalize(3 * torch.eye(4, 7, dtype=torch.float64))
    assert torch.allclose(found, quintic(0.5) * torch.eye(4, 7, dtype=torch.float64), atol=1e-12)


def test_a_matrix_of_zeros_has_no_direction():
    assert (orthogonalize(torch.zeros(3, 5)) == 0).all()


def test_what_rounding_left_is_no_direction():
    found = orthogonalize(torch.full((3, 5), 1e-24))
    assert found.isfinite().all() and found.norm() < 1e-12


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("scan/scan_cifar10", []),
        ("selflabel/selflabel_cifar10", []),
        ("methods/iic_digits", []),
        ("pretext/simclr_digits", ["backbone=efficientnet_lite0", "stem=null"]),
        ("pretext/supervised_digits", ["method_kwargs.start=model.pth.tar"]),
    ],
)
def test_all_but_pretext_tasks_from_scratch_are_refused(config, words):
    path = CONFIGS / f"{config}.yml"
    with pytest.raises(ConfigError, match="the command line: optimizer: muon changes the lengths of kernels"):
        load_config(None, path, [*words, "optimizer=muon", "optimizer_kwargs={lr: 0.03}"])


def test_pretext_tasks_from_scratch_take_it():
    for name in ("simclr", "rotnet", "instdisc", "byol", "supervised"):
        words = ["optimizer=muon", "optimizer_kwargs={lr: 0.03}"]
        assert load_config(None, CONFIGS / f"pretext/{name}_digits.yml", words).optimizer == "muon"


def test_a_kernel_in_channels_last_moves_as_another():
    kernel = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    moved = []
    for layout in (torch.contiguous_format, torch.channels_last):
        parameter = nn.Parameter(kernel.clone(memory_format=layout))
        parameter.grad = kernel.flip(0).contiguous(memory_format=layout)
        muon([parameter], lr=0.1).step()
        moved.append(parameter.detach().contiguous())
    torch.testing.assert_close(moved[0], moved[1])
    assert not torch.allclose(moved[0], kernel)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 3, bias=False)).double()


def make_step(parameters, optimizer, images, skip=None):
    optimizer.zero_grad()
    (parameters(images) ** 2).sum().backward()
    take_step(optimizer, SCALER, skip)
    return {name: value.grad.numpy().copy() for name, value in parameters.named_parameters()}


def test_two_steps_by_hand():
    model, images = network(), torch.randn(4, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = {name: value.detach().numpy().copy() for name, value in model.named_parameters()}
    buffers = {name: np.zeros_like(value) for name, value in expected.items()}
    optimizer = muon(list(model.parameters()), lr=0.02, momentum=0.9, vector_factor=3.0)
    for _ in range(2):
        for name, gradient in make_step(model, optimizer, images).items():
            buffers[name] = 0.9 * buffers[name] + gradient
            if gradient.ndim < 2:
                expected[name] = expected[name] - 0.06 * buffers[name]
                continue
            rows = len(gradient)
            update = by_svd((gradient + 0.9 * buffers[name]).reshape(rows, -1))
            update *= max(1, rows / update.shape[1]) ** 0.5
            unit = expected[name] / np.linalg.norm(expected[name])
            expected[name] = unit * rows**0.5 - 0.02 * update.reshape(gradient.shape)
        for name, value in model.named_parameters():
            np.testing.assert_allclose(value.detach().numpy(), expected[name], rtol=0, atol=1e-9)


def test_a_skipped_step_leaves_weights_and_momentum_also_where_gradients_are_not_finite():
    model, images = network(), torch.randn(4, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    optimizer = muon(list(model.parameters()), lr=0.02)
    make_step(model, optimizer, images, torch.tensor(False))
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    momenta = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
    make_step(model, optimizer, images * torch.nan, torch.tensor(True))
    assert all(value.equal(weights[name]) for name, value in model.named_parameters())
    assert all(
        one["momentum_buffer"].equal(other) for one, other in zip(optimizer.state.values(), momenta, strict=True)
    )
    make_step(model, optimizer, images, torch.tensor(False))
    assert not any(value.equal(weights[name]) for name, value in model.named_parameters())


def test_what_a_checkpoint_holds_goes_on_the_same():
    images = torch.randn(4, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model, again = network(), network()
    optimizer = muon(list(model.parameters()), lr=0.02)
    make_step(model, optimizer, images)
    other = muon(list(again.parameters()), lr=0.02)
    again.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, its in ((model, optimizer), (again, other)):
        make_step(each, its, images)
    assert all(one.equal(two) for one, two in zip(model.parameters(), again.parameters(), strict=True))


def test_rates_of_groups_are_multiplied():
    first, second = nn.Linear(2, 3), nn.Linear(3, 2)
    groups = [
        {"params": list(first.parameters()), "rate_factor": 1.0},
        {"params": [second.bias], "rate_factor": 10.0},
    ]
    found = muon(groups, lr=0.1, vector_factor=2.0).param_groups
    assert [(len(group["params"]), group["rate_factor"]) for group in found] == [(1, 1.0), (1, 2.0), (1, 20.0)]
