import platform
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from easydict import EasyDict

from system.errors import ConfigError, UserError
from system.runtime import Runtime, find_device, find_precision, has_fast_bf16

CPU = torch.device("cpu")


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64", reason="reads the flags that Linux tells of x86"
)
def test_auto_is_bf16_on_cpus_with_instructions_for_it():
    flags = Path("/proc/cpuinfo").read_text().split()
    expected = "amx_tile" in flags or "avx512_bf16" in flags
    assert has_fast_bf16(CPU) is expected
    assert find_precision("auto", CPU) is (torch.bfloat16 if expected else torch.float32)


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_fp16_is_for_cuda(device):
    with pytest.raises(UserError, match=f"needs a GPU of NVIDIA or AMD; use .* on {device}"):
        find_precision("fp16", torch.device(device))


@pytest.mark.parametrize(
    ("machine", "told", "fast"),
    [
        ("x86_64", {"amx"}, True),
        ("x86_64", {"avx512_bf16"}, True),
        ("x86_64", {"mkldnn"}, False),  # emulated there
        ("aarch64", {"mkldnn"}, True),
        ("arm64", set(), False),
    ],
)
def test_every_kind_of_cpu(machine, told, fast, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: "amx" in told)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: "avx512_bf16" in told)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: "mkldnn" in told)
    assert has_fast_bf16(CPU) is fast


def test_processes_that_work_together_cannot_share_a_named_gpu(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="device=cuda:0 is one GPU, and each process here needs its own"):
        find_device("cuda:0")
    assert find_device("cpu") == CPU


def test_a_run_of_auto_goes_on_in_its_precision():
    runtime = Runtime(CPU, torch.float32, torch.float32)
    other = replace(runtime)
    other.continue_in("bfloat16")
    assert (other.training, other.inference) == (torch.bfloat16, torch.float32)
    other.continue_in(None)  # of a run that recorded none
    assert other.training == torch.bfloat16


def test_what_auto_means_may_be_chosen_before():
    config = {"device": "cpu", "compile": "auto", "deterministic": False}
    for word, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        runtime = Runtime.of(EasyDict(config, precision="auto", auto_precision=word))
        assert (runtime.training, runtime.inference, runtime.training_precision) == (dtype, torch.float32, word)
    assert Runtime.of(EasyDict(config, precision="fp32", auto_precision="bf16")).training == torch.float32
