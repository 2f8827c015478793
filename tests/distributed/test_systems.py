"""IIC and UCC over several processes: the gradients of a step are those of one."""

import pytest
import torch
import torch.multiprocessing as mp

from losses import CRITERIA
from methods import iic, ucc
from models import build_backbone
from models.iic import TwoHeads
from models.models import ClusteringModel
from models.ucc import UCCModel
from system import distributed
from tests.distributed.test_distributed import BATCH, CPU, free_port, images, join
from training.batchnorm import synchronize_batchnorm

pytestmark = pytest.mark.slow
DOUBLE = torch.float64


def own(values):
    return values[distributed.slice_of(BATCH)]


def prepare(model):
    if distributed.world_size() > 1:
        model = synchronize_batchnorm(model)
    return distributed.data_parallel(model, CPU)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def informed(trained):
    torch.manual_seed(3)
    clustering = ClusteringModel(build_backbone("sobel/resnet8", "cifar", width=4), 3, 2)
    model = TwoHeads(clustering, 5, 2).to(DOUBLE)
    forward = prepare(model)  # held until the gradients are there
    views = [own(images(seed, DOUBLE)) for seed in (0, 1, 2)]
    loss, losses = iic.step(forward, CRITERIA["iic"](), trained, *views)
    loss.backward()
    return gradients(model) | {"loss": loss.detach(), "losses": losses}


def counted():
    torch.manual_seed(3)
    model = UCCModel(build_backbone("ucc/8", width=2)["backbone"], 2, 4).to(DOUBLE)
    forward = prepare(model)
    counts = torch.arange(BATCH // 2) % 4
    loss, right = ucc.step(forward, CRITERIA["ucc"](), own(images(0, DOUBLE)), counts)
    loss.backward()
    return gradients(model) | {"loss": loss.detach(), "right": right.double()}


CASES = {
    "iic, heads A": lambda: informed(slice(0, 2)),
    "iic, heads B": lambda: informed(slice(2, None)),
    "ucc": counted,
}


def answer(rank, world_size, port, folder):
    join(rank, world_size, port)
    distributed.start(CPU)
    torch.save({name: case() for name, case in CASES.items()}, f"{folder}/{rank}.pt")
    distributed.stop()


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    mp.spawn(answer, (request.param, free_port(), str(folder)), nprocs=request.param)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_that_of_one_process(ranks, name):
    expected = CASES[name]()
    for found in ranks:
        assert found[name].keys() == expected.keys()
        for key, value in expected.items():
            assert (found[name][key] - value).norm() <= 1e-12 * value.norm() + 1e-15, key


def test_only_the_heads_of_a_pass_learn():
    for name, idle in (("iic, heads A", "clustering.cluster_head"), ("iic, heads B", "over_head")):
        for key, value in CASES[name]().items():
            if key.startswith(idle):
                assert not value.any()
            elif "weight" in key:
                assert value.any(), key
