"""The residual network for 96x96 images (STL-10), under the name that published code imports it by."""

from typing import Any

from models import resnet_cifar


def resnet18(width: int = 64) -> dict[str, Any]:
    """ResNet-18 for 96x96 images: `{'backbone', 'dim'}`, dim = 8 · width."""
    return resnet_cifar.resnet18(width=width, stem="stl")
