import pytest
import torch

from tests.distributed.steps import answer
from tests.distributed.test_distributed import free_port
from tests.ranks import run_ranks


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, tmp_path_factory):
    """What every rank found for the module's CASES, with two processes and with three."""
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    run_ranks(answer, request.param, request.param, free_port(), str(folder), request.module.__name__)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]
