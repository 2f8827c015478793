"""torchvision's residual networks for large images, their classifier replaced by the identity."""

from typing import Any, Literal

from torch import nn


def _build(name: str) -> dict[str, Any]:
    from torchvision import models  # slow to import

    network = getattr(models, name)(weights=None)
    dim = network.fc.in_features
    network.fc = nn.Identity()
    return {"backbone": network, "dim": dim}


def resnet18() -> dict[str, Any]:
    """ResNet-18 of torchvision, untrained: `{'backbone', 'dim'}`, dim = 512."""
    return _build("resnet18")


def resnet50(stem: Literal["imagenet"] = "imagenet") -> dict[str, Any]:
    """ResNet-50 of torchvision, untrained: `{'backbone', 'dim'}`, dim = 2048.

    Args:
        stem: 7x7 with stride 2, and a pool.
    """
    return _build("resnet50")
