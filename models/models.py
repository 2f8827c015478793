"""The models: a backbone with a contrastive head, classifier or cluster heads; a layer's features; several networks."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.leave_out import LeaveOut
from system.errors import ConfigError
from system.sections import NumFeatures


def _mlp(dim: int, features_dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, features_dim))


def mlp_batchnorm(dim: int, features_dim: int) -> nn.Module:
    """BYOL's projector and predictor: 16 · features_dim between, BatchNorm, ReLU (https://arxiv.org/abs/2006.07733)."""
    width = 16 * features_dim
    return nn.Sequential(
        nn.Linear(dim, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, features_dim)
    )


HEADS: dict[str, Callable[[int, int], nn.Module]] = {"linear": nn.Linear, "mlp": _mlp, "mlp-batchnorm": mlp_batchnorm}


class ContrastiveModel(nn.Module):
    """Backbone and contrastive head; images `[B, 3, H, W]` become unit vectors `[B, features_dim]`.

    The MLP head is SimCLR's, with biases and without BatchNorm (https://arxiv.org/abs/2002.05709, section 2.1).

    Args:
        backbone: `{'backbone': module, 'dim': int}`.
        head: one linear layer, or two with a ReLU between, or with BatchNorm, ReLU and 16 · features_dim numbers.
        features_dim: length of the vectors.

    Raises:
        ConfigError: an unknown head.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        head: Literal["linear", "mlp", "mlp-batchnorm"] = "mlp",
        features_dim: NumFeatures = 128,
    ):
        super().__init__()
        if head not in HEADS:
            raise ConfigError(f"contrastive head '{head}' does not exist; choose one of {', '.join(HEADS)}")
        self.backbone = backbone["backbone"]
        self.backbone_dim = backbone["dim"]
        self.contrastive_head = HEADS[head](self.backbone_dim, features_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return L2-normalized features `[B, features_dim]`, in float32 at least."""
        features = self.contrastive_head(self.backbone(x))
        # Eight bits of mantissa are too few for the norm and for similarities near 1.
        return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=1)


class ClassifierModel(nn.Module):
    """Backbone and linear classifier; images `[B, 3, H, W]` become logits `[B, num_outputs]`.

    `backbone` is `{'backbone': module, 'dim': int}`.
    """

    def __init__(self, backbone: dict[str, Any], num_outputs: int):
        super().__init__()
        self.backbone = backbone["backbone"]
        self.backbone_dim = backbone["dim"]
        self.classifier = nn.Linear(self.backbone_dim, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[B, num_outputs]`."""
        return self.classifier(self.backbone(x))


class LayerFeatures(nn.Module):
    """What a layer of a backbone computes, averaged over the image; images `[B, 3, H, W]` become `[B, num_dims]`.

    Raises ConfigError when the backbone has no layer of that name.
    """

    def __init__(self, backbone: nn.Module, layer: str):
        super().__init__()
        if not hasattr(backbone, layer):
            there = ", ".join(name for name, _ in backbone.named_children() if name.startswith("layer"))
            raise ConfigError(f"mine_features is {layer}, but the backbone's layers are {there or 'not named so'}")
        self.backbone, self.layer = backbone, layer
        # Inside a block, and in its shortcut, the last convolution has as many channels as the block's output.
        modules = getattr(backbone, layer).modules()
        self.num_dims = [module for module in modules if isinstance(module, nn.Conv2d)][-1].out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's pooled output `[B, num_dims]`."""
        found: list[Tensor] = []
        handle = getattr(self.backbone, self.layer).register_forward_hook(lambda *call: found.append(call[-1]))
        try:
            self.backbone(x)
        finally:
            handle.remove()
        return found[0].mean((2, 3))


class FeatureModel(nn.Module):
    """A backbone alone, images `[B, 3, H, W]` to features `[B, dim]`: what a task without a head leaves behind.

    `dims` are the lengths of several networks' features that stand side by side; empty for one network.
    """

    def __init__(self, backbone: dict[str, Any]):
        super().__init__()
        self.backbone = backbone["backbone"]
        self.backbone_dim = backbone["dim"]
        self.dims: Sequence[int] = backbone["facts"].dims if "facts" in backbone else ()

    def forward(self, x: Tensor) -> Tensor:
        """Return features `[B, dim]`."""
        return self.backbone(x)


class ClusteringModel(nn.Module):
    """Backbone and cluster heads; images `[B, 3, H, W]` become a list of logits `[B, nclusters]`.

    One list entry a head. `backbone` is `{'backbone': module, 'dim': int}`. The heads are linear, unless others are
    given: modules from features `[B, dim]` to logits. `leave_out` says which features belong in no cluster; None: all
    belong in one. Raises ConfigError when there would be no cluster or no head.
    """

    def __init__(
        self, backbone: dict[str, Any], nclusters: int, nheads: int = 1, heads: Sequence[nn.Module] | None = None
    ):
        super().__init__()
        nheads = nheads if heads is None else len(heads)
        if nclusters < 1 or nheads < 1:
            raise ConfigError(f"num_classes is {nclusters} and num_heads is {nheads}, but both must be at least 1")
        self.backbone = backbone["backbone"]
        self.backbone_dim = backbone["dim"]
        self.nclusters, self.nheads = nclusters, nheads
        linear = (nn.Linear(self.backbone_dim, nclusters) for _ in range(nheads))
        self.cluster_head = nn.ModuleList(linear if heads is None else heads)
        self.leave_out: LeaveOut | None = None

    def forward(self, x: Tensor, forward_pass: str = "default") -> Any:
        """Run the whole model, or one part of it.

        `forward_pass`: 'default', images to a list of logits; 'backbone', images to features `[B, dim]`;
        'head', features to a list of logits; 'return_all', images to `{'features', 'output'}`. Raises
        ValueError for another.
        """
        if forward_pass not in ("default", "backbone", "head", "return_all"):
            raise ValueError(f"forward_pass is {forward_pass!r}; it is default, backbone, head or return_all")
        features = x if forward_pass == "head" else self.backbone(x)
        if forward_pass == "backbone":
            return features
        output = [head(features) for head in self.cluster_head]
        return {"features": features, "output": output} if forward_pass == "return_all" else output


class SideBySide(nn.Module):
    """Several networks that see the same images; their features stand one after the other, `[B, ΣD]`."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of a batch `[B, 3, side, side]`."""
        return torch.cat([network(images) for network in self.networks], dim=1)
