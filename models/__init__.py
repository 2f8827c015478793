"""Networks: backbones and the table of their names, the models built on them, and readers of weight files."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import nn

from models import iic, plain, resnet, resnet_cifar, ucc
from models.embedded import TOGETHER
from models.pretrained import build_pretrained
from system.sections import Section, Width, check, clash, look_up, section_of

Builder = Callable[..., dict[str, Any]]


def _one_width(options: Any) -> str | None:
    wide = options.stem == "imagenet" and options.width is not None
    return "the stem imagenet comes in one width; remove width" if wide else None


@clash(_one_width)
def resnet18(
    stem: Literal["cifar", "cifar_s2", "stl", "imagenet"] = "cifar", width: Width | None = None
) -> dict[str, Any]:
    """ResNet-18: torchvision's with the stem imagenet, with the other stems the one for small images.

    Returns `{'backbone', 'dim'}`, dim = 512, or 8 · width.

    Args:
        stem: what comes before the first stage.
        width: channels of the first stage, by default 64; imagenet has no other.
    """
    return resnet.resnet18() if stem == "imagenet" else resnet_cifar.resnet18(width or 64, stem)


def pretrained(name: str, /) -> dict[str, Any]:
    """A network whose weights somebody else has trained, at its own side and without them."""
    return build_pretrained(name, load=False)


def timm(name: str, /) -> dict[str, Any]:
    """Any network of timm that gives one feature vector, at its own side and without its weights."""
    return build_pretrained(f"timm/{name}", load=False)


def sobel(name: str, /, stem: str | None = None, width: Width | None = None) -> dict[str, Any]:
    """Any backbone on the edges of the gray image instead of colors, as IIC has it: `sobel/resnet34`.

    Args:
        stem: what stands before the backbone's first stage.
        width: channels of its first stage.
    """
    inner = build_backbone(name, stem, width)
    return {"backbone": nn.Sequential(iic.Sobel(), inner["backbone"]), "dim": inner["dim"]}


# Functions that return {'backbone': module, 'dim': length of its features}. Their parameters are the keys `stem` and
# `width` of a config, where a network has them. An entry called "kind/" is given what follows as its first argument.
BACKBONES: dict[str, Builder] = {
    "resnet8": resnet_cifar.resnet8,
    "resnet18": resnet18,
    "resnet20": resnet_cifar.resnet20,
    "resnet34": resnet_cifar.resnet34,
    "resnet50": resnet.resnet50,
    "efficientnet_lite0": partial(pretrained, "efficientnet_lite0"),
    "efficientnet_lite2": partial(pretrained, "efficientnet_lite2"),
    **{name: partial(pretrained, name) for name in TOGETHER},
    "dinov2": partial(pretrained, "dinov2"),
    "timm/": timm,
    "iic_cnn": iic.four_convolutions,
    "sobel/": sobel,
    "ucc/": ucc.encoder,
    "pixels/": plain.pixels,
    plain.GIVEN: plain.given,
}


def takes_stem(name: str) -> bool:
    """Whether a backbone has stems to choose from; raises ConfigError for an unknown one."""
    return "stem" in section_of(look_up(BACKBONES, name, "backbone")).model_fields


def backbone_options(
    name: str, stem: str | None = None, width: int | None = None, source: Callable[[str], str] | None = None
) -> Section:
    """The options of a backbone, checked; raises ConfigError for a name, stem or width that does not exist.

    `source(key)` is what an error begins with.
    """
    section = section_of(look_up(BACKBONES, name, "backbone"))
    given = {key: value for key, value in (("stem", stem), ("width", width)) if value is not None}
    return check(section, given, source or (lambda key: f"backbone '{name}'"), owner=name)


def build_backbone(name: str, stem: str | None = None, width: int | None = None) -> dict[str, Any]:
    """Build a backbone, images `[B, 3, H, W]` to `[B, dim]`: `{'backbone': module, 'dim': int}`.

    `stem` is what comes before the first stage, `width` the number of channels of the first stage (default: the
    published one). Raises ConfigError for a name, stem or width that does not exist.
    """
    return look_up(BACKBONES, name, "backbone")(**dict(backbone_options(name, stem, width)))
