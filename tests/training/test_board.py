import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from system.errors import UserError
from system.runtime import Runtime
from training.board import FOLDER, Board
from training.comparison import Keys
from training.run import Run


def test_numbers_and_pictures_are_shown(tmp_path):
    board = Board(tmp_path, True)
    for epoch in (1, 2):
        board.scalars({"epoch": epoch, "loss": -1.5 * epoch, "confident_per_cluster": [1, 2]}, epoch)
    board.images("prototypes", torch.zeros(3, 3, 8, 8, dtype=torch.uint8), 2)
    board.close()
    found = EventAccumulator(str(tmp_path / FOLDER)).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, -1.5), (2, -3.0)]
    assert found.Tags()["scalars"] == ["loss"] and found.Tags()["images"]


def test_nothing_is_written_unless_wanted(tmp_path):
    board = Board(tmp_path, False)
    board.scalars({"loss": 1.0}, 1)
    board.close()
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    config = {"setup": "scan", "seed": 0, "tensorboard": True}
    with pytest.raises(UserError, match="pip install tensorboard"):
        Run.start(config, Runtime.start("cpu"), "scan", tmp_path / "scan", Keys())
    assert not list(tmp_path.iterdir())
