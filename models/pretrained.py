"""Backbones that somebody else has trained, by name, with what their weights ask of an image.

    efficientnet_lite0, efficientnet_lite2   weights installed with the project
    efficientnet_lite0+efficientnet_lite2    both on the same images, their features one after the other
    timm/NAME                                every network of timm that gives one feature vector, weights from its hub
    dinov2                                   short for timm/vit_small_patch14_dinov2.lvd142m

`weights` names a file instead. timm is imported when a backbone is asked for: that takes two seconds.
"""

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import hub
from models.embedded import EMBEDDED, TOGETHER, read_embedded
from models.models import SideBySide
from models.provenance import UNKNOWN, trained_with
from models.weights import read_state
from system.errors import ConfigError, UserError

PREFIX = "timm/"
SHORT_NAMES = {"dinov2": "timm/vit_small_patch14_dinov2.lvd142m"}
SMALLEST_SIDE = 128  # on a CPU, for images that are smaller: networks trained at 224 see little in 32 pixels
SIDE_STEP = 32  # what a convolutional network halves a side by, five times
DINOV2_SIDES = {"gpu": 224, "cpu": 126}  # multiples of its patches of 14; its own 518 takes 15 times as long


@dataclass(frozen=True)
class Pretrained:
    """What a result must say about its backbone, and what its views need.

    `dim` is the length of a feature vector, `dims` that of each network's part of it. `side` is the input's side in
    pixels, `crop` the share of an image's short side that is kept (`crop_mode` is center,
    or squash, which brings the whole image to a square first). `trained_with` is "ImageNet's labels", "no labels",
    "captions" or "unknown"; `license` an SPDX name where there is one. `source` tells where the weights are from.
    `gflop` are the billions of operations that an image costs, a product and its sum being two. `grouped` networks tell
    their groups of layers, so that the last ones can be trained on.
    """

    name: str
    architecture: str
    dim: int
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop: float
    crop_mode: str
    trained_with: str
    license: str
    source: str
    dims: tuple[int, ...]
    gflop: float
    grouped: bool


def is_pretrained(name: str) -> bool:
    """Whether a backbone's name is one of this module's."""
    return is_installed(name) or name in SHORT_NAMES or name.startswith(PREFIX)


def tells_groups(backbone: nn.Module) -> bool:
    """Whether a network of timm tells its groups of layers: the stages or blocks, in their order."""
    return hasattr(backbone, "group_matcher")


def build_pretrained(
    name: str,
    *,
    weights: Path | str | None = None,
    side: int | None = None,
    device: str = "cpu",
    image_side: int | None = None,
    offline: bool = False,
    load: bool = True,
) -> dict[str, Any]:
    """Build a backbone by name, images `[B, 3, side, side]` to `[B, dim]`, with its weights, in eval mode.

    `side` is by default the network's own on a GPU (dinov2: 224); on a CPU (`device="cpu"`) it follows the images:
    their short side `image_side` rounded up to 32, at least 128 and at most the network's own, which is also taken
    where `image_side` is unknown or the network knows positions (dinov2: 126). `weights` is a .safetensors or PyTorch
    file; `offline` forbids the network. With `load=False` the weights stay random, for a model file that holds them.

    Returns `{'backbone': module, 'dim': int, 'facts': Pretrained}`. Raises ConfigError for a name, side or network that
    does not do, UserError for weights that are missing, do not fit, or cannot be downloaded.
    """
    timm_name = _timm_name(name)
    config = _config(timm_name)
    side = side if side is not None else choose_side(timm_name, config, device, image_side)
    if name in TOGETHER:
        return _build_together(name, weights, side, load)
    state, source = _read(name, timm_name, weights, offline) if load else (None, "not loaded")
    backbone = _build(name, timm_name, config, side, state, source)
    foreign = weights is not None
    dim, gflop = _look_at_features(name, backbone, side)
    facts = Pretrained(
        name=name,
        architecture=timm_name.partition(".")[0],
        dim=dim,
        side=side,
        mean=tuple(config.mean),
        std=tuple(config.std),
        interpolation=config.interpolation,
        crop=config.crop_pct,
        crop_mode=config.crop_mode,
        trained_with=UNKNOWN if foreign else trained_with(config.tag or ""),
        license=UNKNOWN if foreign else config.license or UNKNOWN,
        source=source,
        dims=(dim,),
        gflop=gflop,
        grouped=tells_groups(backbone),
    )
    return {"backbone": backbone, "dim": dim, "facts": facts}


def _build_together(name: str, weights: Path | str | None, side: int, load: bool) -> dict[str, Any]:
    """Several networks side by side, whose weights are installed and ask the same of an image."""
    if weights is not None:
        raise ConfigError(
            f"the weights {weights} are one network's, and {name} are several; name the one that they are of"
        )
    built = [build_pretrained(part, side=side, load=load) for part in TOGETHER[name]]
    parts = [one["facts"] for one in built]
    dims = tuple(part.dim for part in parts)
    facts = replace(
        parts[-1],
        name=name,
        architecture=" + ".join(part.architecture for part in parts),
        dim=sum(dims),
        source=" + ".join(part.source for part in parts),
        dims=dims,
        gflop=round(sum(part.gflop for part in parts), 4),
        grouped=all(part.grouped for part in parts),
    )
    return {"backbone": SideBySide([one["backbone"] for one in built]), "dim": sum(dims), "facts": facts}


def describe_pretrained(name: str, *, device: str = "cpu", image_side: int | None = None) -> Pretrained:
    """What `build_pretrained` would say of a backbone, without its weights."""
    return build_pretrained(name, device=device, image_side=image_side, load=False)["facts"]


def wanted_views(name: str) -> dict[str, Any]:
    """The options of the evaluation transform that a backbone asks for, at its own side."""
    config = _config(_timm_name(name))
    return {
        "crop_size": choose_side(_timm_name(name), config, "cpu", None),
        "normalize": {"mean": list(config.mean), "std": list(config.std)},
        "interpolation": config.interpolation,
        "crop": config.crop_pct,
        "crop_mode": config.crop_mode,
    }


def fetch_pretrained(name: str, offline: bool = False) -> None:
    """Bring a backbone's weights to this machine, where they are not there; raises UserError when that fails."""
    repository = _config(_timm_name(name)).hf_hub_id
    if not is_installed(name) and repository is not None:
        hub.fetch(repository, offline)


def is_at_hand(name: str) -> bool:
    """Whether a backbone's weights are on this machine: installed, or in the hub's cache."""
    if is_installed(name):
        return True
    repository = _config(_timm_name(name)).hf_hub_id
    return repository is not None and hub.find_cached(repository) is not None


def choose_side(timm_name: str, config: Any, device: str, image_side: int | None) -> int:
    """The input's side in pixels by the rule of `build_pretrained`; `config` is timm's pretrained_cfg."""
    on_cpu = torch.device(device).type == "cpu"
    if "_dinov2" in timm_name:
        return DINOV2_SIDES["cpu" if on_cpu else "gpu"]
    own = config.input_size[-1]
    if not on_cpu or image_side is None or config.fixed_input_size:
        return own
    return min(own, max(SMALLEST_SIDE, -(-image_side // SIDE_STEP) * SIDE_STEP))


def is_installed(name: str) -> bool:
    """Whether a backbone's weights are installed with the project."""
    return name in EMBEDDED or name in TOGETHER


def _timm_name(name: str) -> str:
    """What timm calls a network, the last one of several."""
    if is_installed(name):
        return EMBEDDED[TOGETHER.get(name, (name,))[-1]].architecture
    return SHORT_NAMES.get(name, name).removeprefix(PREFIX)


def _config(timm_name: str) -> Any:
    """The pretrained_cfg that timm has of a network; raises ConfigError, naming the nearest, when there is none."""
    import timm

    try:
        return timm.get_pretrained_cfg(timm_name, allow_unregistered=False)
    except RuntimeError as error:
        architecture = timm_name.partition(".")[0]
        tagged = timm.list_pretrained(f"{architecture}.*")
        near = difflib.get_close_matches(timm_name, tagged or [*timm.list_models(), *timm.list_pretrained()], 1, 0.3)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else "timm.list_models() tells all names"
        raise ConfigError(f"timm has no network '{timm_name}'; {hint}") from error


def _read(name: str, timm_name: str, weights: Path | str | None, offline: bool) -> tuple[dict[str, Tensor], str]:
    """The weights under timm's names, or a published form that timm knows, and where they are from."""
    import timm

    if weights is not None:
        return read_state(Path(weights)), str(weights)
    if name in EMBEDDED:
        package = EMBEDDED[name]
        whole = timm.create_model(package.architecture, pretrained=False)
        return read_embedded(package, list(whole.state_dict())), f"{package.name} {package.version}"
    repository = _config(timm_name).hf_hub_id
    if repository is None:
        raise UserError(f"timm's hub has no weights for '{timm_name}'; give their file as weights, or another backbone")
    file = hub.fetch(repository, offline)
    return read_state(file.path), f"{file.repository}@{file.commit}"


def _build(
    name: str, timm_name: str, config: Any, side: int, state: dict[str, Tensor] | None, source: str
) -> nn.Module:
    """The network of timm without its classifier, with weights that fit it exactly."""
    import timm

    size: dict[str, Any] = {"img_size": side} if config.fixed_input_size else {}
    # With as many classes as the file has, timm wants every tensor in its place; with fewer it would let all pass.
    num_classes = _num_classes(config, state)
    overlay = {"num_classes": num_classes, "label_offset": 0, "state_dict": state}
    try:
        network: Any = timm.create_model(
            timm_name,
            pretrained=state is not None,
            num_classes=num_classes,
            pretrained_cfg_overlay=overlay if state is not None else {"num_classes": num_classes},
            **size,
        )
    except (RuntimeError, KeyError, ValueError, AssertionError, TypeError, AttributeError, IndexError) as error:
        # timm's readers of other forms meet a foreign file, or its layers a side, with any of these.
        reason = " ".join(str(error).split())[:200]
        if state is None:
            raise _wrong_side(name, side, reason) from error
        raise UserError(
            f"the weights {source} do not fit backbone '{name}' at side {side} ({reason}); give those of this network"
        ) from error
    network.pretrained_cfg.pop("state_dict", None)
    for key, value in network.state_dict().items():
        if not torch.isfinite(value).all():
            raise UserError(f"the weights {source} are not usable: '{key}' holds values that are not finite numbers")
    if num_classes:
        network.reset_classifier(0)
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    if patch and side % patch[0]:  # timm would leave out the last pixels
        raise _wrong_side(name, side, f"it is no multiple of its patches' {patch[0]}")
    return network.eval()


def _wrong_side(name: str, side: int, reason: str) -> ConfigError:
    return ConfigError(f"backbone '{name}' cannot take images of side {side}: {reason}; leave side out for its own")


def _num_classes(config: Any, state: dict[str, Tensor] | None) -> int:
    """The number of classes of a file's classifier, 0 where it has none."""
    names = [config.classifier] if isinstance(config.classifier, str) else list(config.classifier or ())
    for name in names:
        if state is not None and f"{name}.bias" in state:
            return len(state[f"{name}.bias"])
    return 0


@torch.inference_mode()
def _look_at_features(name: str, backbone: nn.Module, side: int) -> tuple[int, float]:
    """The length of an image's feature vector and its GFLOP; raises ConfigError when it does not give exactly one."""
    try:
        with FlopCounterMode(display=False) as counter:
            features = backbone(torch.zeros(1, 3, side, side))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise _wrong_side(name, side, reason) from error
    if not isinstance(features, Tensor) or features.ndim != 2:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ConfigError(
            f"backbone '{name}' gives no feature vector but {shape} for an image; take one that pools its features"
        )
    return features.shape[1], round(counter.get_total_flops() / 1e9, 4)
