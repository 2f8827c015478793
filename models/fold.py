"""BatchNorm folded into the convolutions before it: the same features with a third fewer passes over memory."""

import copy
from collections import Counter
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batchnorm(network: nn.Module, images: Tensor) -> nn.Module:
    """A copy in eval mode whose convolutions do what a BatchNorm right behind them did.

    Which convolution is before which BatchNorm is seen on a pass of `images` `[B, 3, H, W]`: the output of one is the
    input of the other. What else reads that output, in a network that does so, gets the wrong thing: compare.
    """
    network = copy.deepcopy(network).eval()
    for convolution, norm in _find_pairs(network, images):
        _replace(network, convolution, fuse_conv_bn_eval(convolution, norm))
        # timm's BatchNormAct2d is a BatchNorm with what follows it.
        _replace(network, norm, nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity())
    return network


def _find_pairs(network: nn.Module, images: Tensor) -> list[tuple[Any, Any]]:
    producers: dict[int, tuple[Tensor, nn.Module]] = {}  # by an output's id, with the output, so that no other takes it
    pairs: list[tuple[Any, Any]] = []

    def produced(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        producers[id(output)] = (output, module)

    def consumed(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in producers:
            pairs.append((producers[id(inputs[0])][1], module))

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(produced))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(consumed))
    network(images[:1])
    for hook in hooks:
        hook.remove()
    # A module that is called twice has two neighbors, and may not become one with either.
    calls = Counter(id(module) for pair in pairs for module in pair)
    return [pair for pair in pairs if all(calls[id(module)] == 1 for module in pair)]


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, wherever the network holds it."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)
