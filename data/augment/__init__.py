"""Augmentations on whole uint8 batches, every image with its own draws; names in a config lead here."""

import inspect
from typing import Any

from data.augment import options
from data.augment.affine import Affine
from data.augment.pretrained import Pretrained
from data.augment.simclr import SimCLR
from data.augment.standard import Standard
from data.augment.strategy import Evaluation, Strategy
from data.augment.strong import Strong
from system.errors import ConfigError

AUGMENTATIONS: dict[str, type[Strategy]] = {
    "standard": Standard,
    "simclr": SimCLR,
    "ours": Strong,
    "affine": Affine,
    "evaluation": Evaluation,
    "pretrained": Pretrained,
}

__all__ = ["AUGMENTATIONS", "Evaluation", "Strategy", "build_augmentation", "build_evaluation"]


def build_augmentation(strategy: str, **kwargs: Any) -> Strategy:
    """The named strategy from the augmentation_kwargs of a config; ConfigError for what it does not take."""
    if strategy not in AUGMENTATIONS:
        raise ConfigError(f"there is no augmentation {strategy!r}; known are {', '.join(AUGMENTATIONS)}")
    parameters = inspect.signature(AUGMENTATIONS[strategy]).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty]
    optional = [p.name for p in parameters if p.default is not p.empty]
    options.section(f"augmentation_kwargs ({strategy})", kwargs, required, optional)
    return AUGMENTATIONS[strategy](**kwargs)
