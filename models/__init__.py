"""Networks: backbones, the two models built on them, and the reader of their published weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

from models import resnet, resnet_cifar
from system.errors import ConfigError

Builder = Callable[..., dict[str, Any]]


def _every_small_stem(build: Builder) -> dict[str, Builder]:
    return {stem: partial(build, stem=stem) for stem in resnet_cifar.STEMS}


# name -> stem -> function that returns {'backbone': module, 'dim': length of its features}
BACKBONES: dict[str, dict[str, Builder]] = {
    "resnet8": _every_small_stem(resnet_cifar.resnet8),
    "resnet18": {**_every_small_stem(resnet_cifar.resnet18), "imagenet": resnet.resnet18},
    "resnet20": _every_small_stem(resnet_cifar.resnet20),
    "resnet50": {"imagenet": resnet.resnet50},
}


def build_backbone(name: str, stem: str, width: int | None = None) -> dict[str, Any]:
    """Build an untrained backbone, images `[B, 3, H, W]` to `[B, dim]`: `{'backbone': module, 'dim': int}`.

    `width` is the number of channels of the first stage (default: the published one). Raises ConfigError
    for a name, stem or width that does not exist.
    """
    if name not in BACKBONES:
        raise ConfigError(f"backbone '{name}' does not exist; choose one of {', '.join(BACKBONES)}")
    if stem not in BACKBONES[name]:
        others = [other for other, stems in BACKBONES.items() if stem in stems]
        instead = f", or one of the backbones {', '.join(others)} with this stem" if others else ""
        raise ConfigError(f"backbone '{name}' has no stem '{stem}'; choose stem={'|'.join(BACKBONES[name])}{instead}")
    build = BACKBONES[name][stem]
    if width is None:
        return build()
    if stem == "imagenet":
        raise ConfigError(f"backbone '{name}' with stem 'imagenet' comes in one width; remove width")
    if width < 1:
        raise ConfigError(f"width is {width}; it counts channels and must be at least 1")
    return build(width=width)
