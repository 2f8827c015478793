"""The arithmetic of the GPU benchmarks, and those of their checks that mean something on a CPU too."""

import pytest
import torch

from benchmarks import gpu_profile
from benchmarks.steps import CONFIGS, Step
from system.runtime import Runtime
from tests.gpu.checks import CHECKS


@pytest.fixture
def runtime():
    return Runtime(torch.device("cpu"), torch.float32, torch.float32)


def test_busy_time_counts_overlaps_once():
    assert gpu_profile._busy([(5, 6), (0, 2), (1, 3), (1.5, 2)]) == 4
    assert gpu_profile._busy([]) == 0


def test_projection():
    """SimCLR: 97 steps x 512 x 2 = 99,328 views an epoch; scan 390 x 128 x 2 = 99,840; selflabel 100,000."""
    fast, slow = (
        {"views_per_second": rate, "first_three_steps_seconds": start}
        for rate, start in ((99_328, 40.0), (49_664, 1.0))
    )
    profiles = {
        "simclr": {"eager": slow, "compiled": fast},  # 500 epochs: 1001 s and 540 s
        "scan": {"eager": fast, "compiled": {"views_per_second": 199_680, "first_three_steps_seconds": 100.0}},
        "selflabel": {"eager": {"views_per_second": 100_000, "first_three_steps_seconds": 0.0}},
    }
    found = gpu_profile.project(profiles, 10, "_jpeg")
    assert {stage: part["variant"] for stage, part in found["stages"].items()} == {
        "simclr": "compiled",
        "scan": "eager",
        "selflabel": "eager",
    }
    scan = 40 + 50 * 99_840 / 99_328
    assert found["seconds"] == pytest.approx(540 + scan + 200, abs=0.1)
    assert found["pretext_epochs_that_fit"] == int(600 - 40 - scan - 200)
    assert gpu_profile.project(profiles, 60, "_jpeg")["pretext_epochs_that_fit"] == 500
    assert gpu_profile.project(profiles, 1, "_jpeg")["pretext_epochs_that_fit"] == 0


def test_the_check_of_skipped_batches_passes_on_the_cpu(runtime):
    assert CHECKS["skipped batches"](runtime)


@pytest.mark.parametrize("stage", CONFIGS)
def test_steps_train(runtime, stage):
    step = Step(stage, runtime, ["batch_size=8", "width=4"], 32)
    step.criterion.threshold = 0.0
    before = [parameter.detach().clone() for parameter in step.model.parameters()]
    step()
    changed = [not torch.equal(a, b) for a, b in zip(before, step.model.parameters(), strict=True)]
    assert all(changed)
