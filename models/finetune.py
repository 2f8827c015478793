"""Training on of a pretrained backbone: which of its layers change, and what stays as it is."""

from typing import Any

from torch import nn

from models.models import SideBySide
from models.pretrained import tells_groups
from system.errors import ConfigError


def train_last(backbone: Any, num_groups: int) -> None:
    """Freeze all of a pretrained backbone but its last groups of layers: the stages of a convolutional network.

    Of a transformer they are its blocks; of several networks side by side, the last groups of each. What is frozen
    costs a forward pass and no more. A group of norms alone, as ConvNeXt ends with, changes with the one before it.
    Raises ConfigError for a network that does not tell its groups.
    """
    from timm.models import group_parameters  # slow to import

    if isinstance(backbone, SideBySide):  # of each network its own
        for network in backbone.networks:
            train_last(network, num_groups)
        return
    if not tells_groups(backbone):
        raise ConfigError(
            "trained_layers is for pretrained backbones that tell their groups of layers, and "
            f"{type(backbone).__name__} tells none; leave it out"
        )
    groups = group_parameters(backbone, backbone.group_matcher(coarse=True))
    parameters = dict(backbone.named_parameters())
    with_matrix = [number for number in sorted(groups) if any(parameters[name].ndim > 1 for name in groups[number])]
    first = with_matrix[-num_groups:][0]
    trained = {name for number in groups if number >= first for name in groups[number]}
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in trained)


def training_mode(model: nn.Module, pretrained: bool) -> None:
    """Put a model into training mode; a pretrained backbone stays in evaluation mode.

    Its BatchNorm keeps the statistics of far more images than these, and nothing is dropped at random.
    """
    model.train()
    if pretrained:
        model.get_submodule("backbone").eval()
