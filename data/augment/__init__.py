"""Augmentations on whole uint8 batches, every image with its own draws; names in a config lead here."""

from typing import Any

from data.augment.affine import Affine
from data.augment.padded import PaddedCrop
from data.augment.pretrained import Pretrained
from data.augment.simclr import SimCLR
from data.augment.standard import Standard
from data.augment.strategy import Evaluation, Normalize, Strategy
from data.augment.strong import Strong
from system.sections import look_up

# The annotated parameters of a class are the augmentation_kwargs that a config may give.
AUGMENTATIONS: dict[str, type[Strategy]] = {
    "standard": Standard,
    "simclr": SimCLR,
    "ours": Strong,
    "affine": Affine,
    "padded": PaddedCrop,
    "evaluation": Evaluation,
    "pretrained": Pretrained,
}

__all__ = ["AUGMENTATIONS", "Evaluation", "Normalize", "Strategy", "build_augmentation"]


def build_augmentation(strategy: str, **kwargs: Any) -> Strategy:
    """The named strategy from the augmentation_kwargs of a config; raises ConfigError for what it does not take."""
    return look_up(AUGMENTATIONS, strategy, "augmentation_strategy")(**kwargs)
