"""TensorBoard, for those who have it: a run's metrics as curves, its clusters' prototypes as pictures."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from system.errors import UserError
from system.files import add_to_list

EVENTS = "events.out.tfevents.*"  # what TensorBoard calls its files
FOLDER = "tensorboard"  # in the run folder; `tensorboard --logdir results` shows all runs


def find_writer() -> Any:
    """TensorBoard's SummaryWriter class; raises UserError when the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "tensorboard: true needs the package tensorboard: pip install tensorboard, or leave the key out "
            "(metrics.jsonl holds the same numbers)"
        ) from error
    return SummaryWriter


class Board:
    """Where a run's numbers are shown; does nothing unless it is `wanted`. Raises UserError without the package."""

    def __init__(self, folder: Path, wanted: bool, first_epoch: int = 0) -> None:
        self._writer: Any = None
        if wanted:  # what a killed run wrote after its last checkpoint is hidden
            board = folder / FOLDER
            before = set(board.glob(EVENTS))
            self._writer = find_writer()(str(board), purge_step=first_epoch + 1)
            add_to_list(board, [path.name for path in board.glob(EVENTS) if path not in before])

    def scalars(self, line: dict[str, Any], epoch: int) -> None:
        """Show the numbers of an epoch's metrics, under their names there."""
        for name, value in line.items() if self._writer else ():
            if isinstance(value, int | float) and name != "epoch":
                self._writer.add_scalar(name, value, epoch)

    def images(self, name: str, images: Tensor, epoch: int) -> None:
        """Show images uint8 `[P, 3, H, W]` side by side."""
        if self._writer:
            self._writer.add_images(name, torch.as_tensor(images).cpu(), epoch)

    def close(self) -> None:
        """Write what is left."""
        if self._writer:
            self._writer.close()
