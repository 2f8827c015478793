"""What depends on the device, on a CUDA device: python -m pytest -m gpu."""

import pytest
import torch

from system.runtime import Runtime
from tests.gpu.checks import CHECKS

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def runtime():
    if not torch.cuda.is_available():
        pytest.fail("this machine shows no CUDA device to PyTorch")
    return Runtime.start("cuda", "auto", False)


@pytest.mark.parametrize("name", CHECKS)
def test_the_device_computes_what_the_cpu_computes(runtime, name):
    CHECKS[name](runtime)
