"""Which features a folder's clusters are found in: those of a pretrained network, or of one trained on the folder."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.given import KINDS, FeatureTable, require_different
from models.plain import GIVEN
from models.pretrained import (
    Pretrained,
    build_pretrained,
    describe_pretrained,
    fetch_pretrained,
    is_at_hand,
    is_pretrained,
)
from recipes.choose import SIDES_SEEN, Recipe, choose, forbid_flips
from recipes.look import Look
from recipes.refining import num_epochs, refining_config
from system.errors import ConfigError, UserError
from system.paths import expand_path

EMBEDDED = "efficientnet_lite0+efficientnet_lite2"  # which one suits the images is not known before
QUICK_EMBEDDED = "efficientnet_lite0"
WITHOUT_LABELS = "dinov2"
SCRATCH = "scratch"
NUM_NEIGHBORS = 50
SHOWN_SIDE = 128  # of images in the pictures of features that were given
SIGNS_SIDE = 48  # of gray images up to which a network trained on them passes every pretrained one


@dataclass(frozen=True)
class Features:
    """Where features come from: a backbone's name, or scratch, and why, in words.

    `file` holds those of given/D, `weights` those of the backbone where they are not its own.
    """

    name: str
    why: str
    file: Path | None = None
    weights: str | None = None


def is_file(wanted: str) -> bool:
    """Whether `--features` names a file of features."""
    return wanted.endswith(KINDS)


def identity(wanted: str) -> str:
    """What `--features` asks for, wherever a file lies; raises UserError when there is no such file."""
    if not is_file(wanted):
        return wanted
    try:
        with Path(expand_path(wanted)).open("rb") as file:
            return f"a file of SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise UserError(f"the features {wanted} cannot be read: {(error.strerror or str(error)).lower()}") from error


def read_own(file: Path, look: Look) -> Features:
    """The features of a file, compared with the folder's images; raises UserError when they are not theirs."""
    table = FeatureTable(file)
    require_different(table.select(look.files.paths), file)
    others = len(table.rows) - len(look.files)
    why = f"as asked; {others:,} rows of other images are left out" if others else "as asked"
    return Features(f"{GIVEN}{table.dim}", why, file.resolve())


def check_features(wanted: str) -> None:
    """Raise ConfigError for a word of --features that stands for nothing."""
    if not (wanted in ("auto", "embedded", SCRATCH) or is_pretrained(wanted) or is_file(wanted)):
        raise ConfigError(
            f"--features is '{wanted}'; it is auto, embedded, dinov2, scratch, timm/NAME, or a .npy or .parquet file"
        )


def choose_features(wanted: str, look: Look, quick: bool, offline: bool) -> Features:
    """Turn `--features` into a backbone's name or `scratch`.

    Raises UserError for a file that does not hold features of these images.

    auto takes scratch for small gray images, else dinov2 where its weights are here or can be downloaded, else the
    embedded network.
    """
    embedded = QUICK_EMBEDDED if quick else EMBEDDED
    if wanted == "embedded":
        return Features(embedded, "as asked")
    if wanted == SCRATCH or is_pretrained(wanted):
        return Features(wanted, "as asked")
    if is_file(wanted):
        return read_own(Path(expand_path(wanted)), look)
    if look.gray and look.short_side <= SIGNS_SIDE:
        return Features(SCRATCH, "small gray images: a network trained on them represents them best")
    if is_at_hand(WITHOUT_LABELS):
        return Features(WITHOUT_LABELS, "its weights, trained without labels, are on this machine")
    if offline:
        return Features(embedded, "its weights are installed, and nothing is downloaded")
    try:
        fetch_pretrained(WITHOUT_LABELS)
    except UserError as error:
        reason = str(error).partition("; ")[0]  # what to do about it is done here
        return Features(embedded, f"its weights are installed; {WITHOUT_LABELS} is not available ({reason})")
    return Features(WITHOUT_LABELS, "its weights were trained without labels")


def make_recipe(
    look: Look, num_clusters: int, device: str, quick: bool, features: Features, flip: bool = True
) -> Recipe:
    """The recipe of a folder for a device type (`cuda`, `mps`, `cpu`) and for features that were chosen.

    Without `flip` no view of an image is its mirror image.
    """
    if features.name == SCRATCH:
        recipe = choose(look, num_clusters, device, quick, flip)
        recipe.reasons.append(f"trained from scratch: {features.why}")
        return recipe
    if features.file:
        dim = features.name.removeprefix(GIVEN)
        reasons = [look.words, f"features of {dim} numbers from {features.file}: {features.why}"]
        return Recipe(f"features, {features.name}", reasons, own_stages(look, num_clusters, features))
    facts = describe_pretrained(features.name, device=device, image_side=look.short_side)
    trained = f"trained with {facts.trained_with} (license: {facts.license})"
    what = f"features of {facts.name}, {f'weights {features.weights}' if features.weights else trained}: {features.why}"
    reasons = [look.words, f"{what}; side {facts.side}, for {device}"]
    stages = feature_stages(look, num_clusters, facts, device)
    refines = not quick and facts.grouped and num_epochs(look.num_images, facts.gflop, device) > 0
    if not facts.grouped:
        reasons.append("clusters are not refined: this network does not tell which of its layers are the last")
    if not flip and forbid_flips(stages) and look.has_sides and refines:
        reasons.append(f"views are never flipped: {SIDES_SEEN}")
    return Recipe(f"features, {facts.name} at {facts.side}", reasons, stages, refines)


def feature_stages(look: Look, num_clusters: int, facts: Pretrained, device: str) -> dict[str, Any]:
    """The configs of the stages: features of a pretrained network, all clusterings of them, and refining if it can."""
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
    stages = _stages(common, look.num_images)
    if facts.grouped:
        stages["selflabel"] = {"setup": "selflabel", **common, **refining_config(look, facts, device)}
    return stages


def require_weights(features: Features, offline: bool) -> None:
    """Bring the weights of a pretrained backbone to this machine, before anything is written.

    Raises UserError when they are not to be had, or do not fit.
    """
    if features.weights:
        build_pretrained(features.name, weights=features.weights)
    elif is_pretrained(features.name):
        fetch_pretrained(features.name, offline)


def own_stages(look: Look, num_clusters: int, features: Features) -> dict[str, Any]:
    """The configs of the two stages for features of a file; images are only looked at, one by one."""
    common: dict[str, Any] = {
        "train_db_name": "folder",
        "train_db_kwargs": {"root": str(look.files.root.resolve()), "stream": True},
        "num_classes": num_clusters,
        "backbone": features.name,
        "transformation_kwargs": {"crop_size": SHOWN_SIDE, "normalize": {"mean": look.mean, "std": look.std}},
    }
    stages = _stages(common, len(look.files))
    stages["pretrained"]["features_file"] = str(features.file)
    return stages


def _stages(common: dict[str, Any], num_images: int) -> dict[str, Any]:
    mined = {"num_mined_train": min(NUM_NEIGHBORS, num_images - 1), "num_mined_val": min(5, num_images - 1)}
    return {
        "pretrained": {"setup": "pretrained", **common, **mined},
        "candidates": {"setup": "candidates", **common},
    }
