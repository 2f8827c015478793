"""Which features a folder's clusters are found in: those of a pretrained network, or of one trained on the folder."""

from dataclasses import dataclass
from typing import Any

from models.pretrained import Pretrained, describe_pretrained, fetch_pretrained, is_at_hand, is_pretrained
from recipes.choose import Recipe, choose
from recipes.look import Look
from system.errors import ConfigError, UserError

EMBEDDED = "efficientnet_lite2"  # the larger of the two, for seconds more
QUICK_EMBEDDED = "efficientnet_lite0"
WITHOUT_LABELS = "dinov2"
SCRATCH = "scratch"
NUM_NEIGHBORS = 50
SIGNS_SIDE = 48  # of gray images up to which a network trained on them passes every pretrained one


@dataclass(frozen=True)
class Features:
    """Where features come from: a backbone's name, or scratch, and why, in words."""

    name: str
    why: str


def choose_features(wanted: str, look: Look, device: str, quick: bool, offline: bool) -> Features:
    """Turn `--features` into a backbone's name or `scratch`; raises ConfigError for a name that does not exist.

    auto takes scratch for small gray images, else dinov2 where its weights are here or can be downloaded, else the
    embedded network.
    """
    embedded = QUICK_EMBEDDED if quick else EMBEDDED
    if wanted == "embedded":
        return Features(embedded, "as asked")
    if wanted == SCRATCH or is_pretrained(wanted):
        return Features(wanted, "as asked")
    if wanted != "auto":
        raise ConfigError(f"--features is '{wanted}'; it is auto, embedded, dinov2, scratch, timm/NAME, or a .npy file")
    if look.gray and look.short_side <= SIGNS_SIDE:
        return Features(SCRATCH, "small gray images: a network trained on them knows them best")
    if is_at_hand(WITHOUT_LABELS):
        return Features(WITHOUT_LABELS, "its weights, trained without labels, are on this machine")
    if offline:
        return Features(embedded, "its weights are installed, and nothing is downloaded")
    try:
        fetch_pretrained(WITHOUT_LABELS)
    except UserError as error:
        return Features(embedded, f"its weights are installed; {WITHOUT_LABELS} cannot be had ({error})")
    return Features(WITHOUT_LABELS, "its weights were trained without labels")


def make_recipe(look: Look, num_clusters: int, device: str, quick: bool, features: Features) -> Recipe:
    """The recipe of a folder for a device type (`cuda`, `mps`, `cpu`) and for features that were chosen."""
    if features.name == SCRATCH:
        recipe = choose(look, num_clusters, device, quick)
        recipe.reasons.append(f"trained from scratch: {features.why}")
        return recipe
    facts = describe_pretrained(features.name, device=device, image_side=look.short_side)
    what = f"features of {facts.name}, trained with {facts.trained_with} (licence: {facts.license}): {features.why}"
    reasons = [look.words, f"{what}; side {facts.side}, for {device}"]
    return Recipe(f"features, {facts.name} at {facts.side}", reasons, feature_stages(look, num_clusters, facts))


def feature_stages(look: Look, num_clusters: int, facts: Pretrained) -> dict[str, Any]:
    """The configs of the two stages: features of a pretrained network, and all clusterings of them."""
    # Small images are kept as they are and enlarged as the network wants; large ones are reduced while they are read.
    stored = min(look.short_side, facts.side)
    common: dict[str, Any] = {
        "train_db_name": "folder",
        "train_db_kwargs": {
            "root": str(look.files.root.resolve()),
            "resize": stored,
            "on_bad_image": "skip",
        },
        "num_classes": num_clusters,
        "backbone": facts.name,
        "transformation_kwargs": {
            "crop_size": facts.side,
            "normalize": {"mean": list(facts.mean), "std": list(facts.std)},
            "interpolation": facts.interpolation,
            "crop": 1.0,  # whole: people's images show their thing up to the border
            "crop_mode": facts.crop_mode,
        },
    }
    num_mined = min(NUM_NEIGHBORS, look.num_images - 1)
    return {
        "pretrained": {
            "setup": "pretrained",
            **common,
            "num_mined_train": num_mined,
            "num_mined_val": min(5, look.num_images - 1),
        },
        "candidates": {"setup": "candidates", **common},
    }
