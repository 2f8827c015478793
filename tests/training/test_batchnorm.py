import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from models import build_backbone
from tests.ranks import run_ranks
from training.batchnorm import GlobalBatchNorm2d, synchronize_batchnorm

SHARES = ([3, 2], [1, 4])  # unequal slices of the same five images


def reference_and_copy(dtype=torch.float64, **options):
    torch.manual_seed(0)
    reference = nn.BatchNorm2d(4, **options).to(dtype)
    copy = GlobalBatchNorm2d(4, **options).to(dtype)
    if reference.affine:
        nn.init.uniform_(reference.weight)
        nn.init.normal_(reference.bias)
    copy.load_state_dict(reference.state_dict())
    return reference, copy


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 4, 3, 2, generator=generator, dtype=torch.float64) * 3 + 7


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def objective(outputs):
    """Not a plain sum, whose gradient through a normalization would vanish."""
    return (outputs * torch.linspace(-1, 1, outputs.numel()).view_as(outputs)).sin().sum()


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"momentum": 0.3, "eps": 0.01}])
def test_the_formula_is_batchnorms(options):
    reference, copy = reference_and_copy(**options)
    for turn in range(3):
        images, same = batch(turn).requires_grad_(), batch(turn).requires_grad_()
        expected, outputs = reference(images), copy.forward_global(same)
        objective(expected).backward()
        objective(outputs).backward()
        close(outputs, expected)
        close(same.grad, images.grad)
    for parameter, other in zip(reference.parameters(), copy.parameters(), strict=True):
        close(other.grad, parameter.grad)
    close(copy.state_dict(), reference.state_dict())
    close(copy.eval()(batch()), reference.eval()(batch()))


def test_in_one_process_it_is_batchnorm_bit_for_bit():
    reference, copy = reference_and_copy(torch.float32)
    images = batch().float()
    for mode in (True, False):
        assert torch.equal(copy.train(mode)(images), reference.train(mode)(images))
    assert all(torch.equal(copy.state_dict()[key], value) for key, value in reference.state_dict().items())


def test_statistics_of_bfloat16_are_taken_in_float32():
    _, copy = reference_and_copy(torch.float32)
    images = batch().bfloat16()
    outputs = copy.forward_global(images)
    assert outputs.dtype == torch.bfloat16
    expected = 0.9 * torch.zeros(4) + 0.1 * images.float().mean(dim=(0, 2, 3))
    torch.testing.assert_close(copy.running_mean, expected, rtol=1e-6, atol=1e-6)


def test_synchronize_replaces_and_keeps():
    model = build_backbone("resnet8", "cifar")["backbone"].train()
    model.bn1.eval()
    state, parameters = model.state_dict(), list(model.parameters())
    synchronized = synchronize_batchnorm(model)
    kinds = {type(m) for m in synchronized.modules() if isinstance(m, nn.BatchNorm2d)}
    assert kinds == {GlobalBatchNorm2d}
    assert list(synchronized.state_dict()) == list(state)
    assert all(a is b for a, b in zip(synchronized.parameters(), parameters, strict=True))
    assert not synchronized.bn1.training
    assert synchronized.layer1[0].bn1.training


def test_timms_batchnorm_activates_after_it():
    norm = BatchNormAct2d(4, act_layer=nn.SiLU).double()
    same = synchronize_batchnorm(nn.Sequential(copy.deepcopy(norm)))[0]
    torch.testing.assert_close(same.forward_global(batch()), norm(batch()))
    torch.testing.assert_close(same.state_dict(), norm.state_dict())
    torch.testing.assert_close(same.eval()(batch()), norm.eval()(batch()))


def on_one_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    copy = synchronize_batchnorm(nn.Sequential(nn.BatchNorm2d(4).double()))[0]
    copy.load_state_dict(reference_and_copy()[0].state_dict())
    found = []
    weights = torch.linspace(-1, 1, batch().numel()).view_as(batch())
    for lengths in SHARES:
        copy.zero_grad()
        images = batch().split(lengths)[rank].clone().requires_grad_()
        outputs = copy(images)
        (outputs * weights.split(lengths)[rank]).sin().sum().backward()
        tensors = [outputs, images.grad, copy.weight.grad, copy.bias.grad]
        found.append([tensor.detach().clone() for tensor in tensors])
    torch.save((found, copy.state_dict()), folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_unequal_slices_are_one_with_the_whole_batch(tmp_path):
    run_ranks(on_one_rank, 2, tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    reference, _ = reference_and_copy()
    for turn, lengths in enumerate(SHARES):
        reference.zero_grad()
        images = batch().requires_grad_()
        expected = reference(images)
        objective(expected).backward()
        for rank in (0, 1):
            outputs, gradient, _, _ = ranks[rank][0][turn]
            close(outputs, expected.detach().split(lengths)[rank])
            close(gradient, images.grad.split(lengths)[rank])
        for place, parameter in ((2, reference.weight), (3, reference.bias)):
            close(sum(ranks[rank][0][turn][place] for rank in (0, 1)), parameter.grad)
    for rank in (0, 1):
        for key, value in reference.state_dict().items():
            close(ranks[rank][1][key], value)
