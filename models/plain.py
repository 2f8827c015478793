"""Backbones that nothing is learned by: the pixels as they are, and features that came without their network."""

from typing import Any

import torch
from torch import Tensor, nn

from system.errors import ConfigError, UserError

MOST = 512  # pixels of a side
MOST_NUMBERS = 2**16  # of an image
GIVEN = "given/"


def pixels(side: str, /) -> dict[str, Any]:
    """The pixels of views of that side, in a row: `{'backbone', 'dim'}`, dim = 3 · side².

    Raises ConfigError for what is no side from 1 to 512.
    """
    if not side.isdecimal() or not 0 < int(side) <= MOST:
        raise ConfigError(
            f"backbone is 'pixels/{side}', but what follows pixels/ is the side of the views, 1 to {MOST}"
        )
    return {"backbone": nn.Flatten(), "dim": 3 * int(side) ** 2}


class Given(nn.Module):
    """Stands for the unknown network of features that were given; raises UserError for every image."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("dim", torch.tensor(dim))  # a model file holds it, and so says what it is of

    def forward(self, x: Tensor) -> Tensor:
        """Raise UserError."""
        raise UserError(
            "this model clusters features that were given in a file, so nothing here turns an image into them; "
            "predict.py --features NEW.npy takes those of new images"
        )


def given(dim: str, /) -> dict[str, Any]:
    """Features of that length, whose network is unknown: `{'backbone', 'dim'}`.

    Raises ConfigError for what is no length from 1 to 65,536.
    """
    if not dim.isdecimal() or not 0 < int(dim) <= MOST_NUMBERS:
        raise ConfigError(f"backbone is 'given/{dim}', but what follows given/ is the features' length")
    return {"backbone": Given(int(dim)), "dim": int(dim)}


def is_given(backbone: str) -> bool:
    """Whether a backbone's name stands for features that were given."""
    return backbone.startswith(GIVEN)
