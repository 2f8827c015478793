"""A trace of a few steps: written once, after which the process ends."""

import json

import pytest
import torch

from system import distributed
from training.profiling import WARM_UP, StepProfiler


def test_too_few_steps_leave_no_trace_and_say_so(tmp_path, capsys):
    profiler = StepProfiler(2, tmp_path / "trace.json")
    with profiler:
        for _ in range(WARM_UP):
            profiler.step()
    assert "no trace was written: 2 steps were missing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_0_writes_the_trace_and_every_rank_ends(tmp_path, monkeypatch, rank):
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    profiler = StepProfiler(2, tmp_path / "trace.json")
    with pytest.raises(SystemExit, match="0"), profiler:
        for _ in range(WARM_UP + 1):
            torch.ones(3).sum()
            profiler.step()
        assert not list(tmp_path.iterdir())
        profiler.step()
    assert [path.name for path in tmp_path.glob("trace*")] == ["trace.json"][rank:]
    if rank == 0:
        assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
