"""What tests of a method's step share: its cases are computed by one process and by several, and compared."""

import importlib

import torch

from system import distributed
from tests.distributed.test_distributed import BATCH, CPU, join
from training.batchnorm import synchronize_batchnorm

DOUBLE = torch.float64


def own(values):
    return values[distributed.slice_of(BATCH)]


def prepare(model):
    if distributed.world_size() > 1:
        model = synchronize_batchnorm(model)
    return distributed.data_parallel(model, CPU)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def answer(rank, world_size, port, folder, module):
    """Save what every case of a test module gives on this rank."""
    join(rank, world_size, port)
    distributed.start(CPU)
    cases = importlib.import_module(module).CASES
    torch.save({name: case() for name, case in cases.items()}, f"{folder}/{rank}.pt")
    distributed.stop()


def assert_same_on_all(ranks, name, expected):
    for found in ranks:
        assert found[name].keys() == expected.keys()
        for key, value in expected.items():
            assert (found[name][key] - value).norm() <= 1e-12 * value.norm() + 1e-15, key
