"""Take features from a network that somebody else has trained, then mine every image's nearest neighbors.

    python -m methods.pretrained --config_exp configs/pretext/pretrained_digits.yml
    python -m methods.pretrained --config_exp configs/pretext/pretrained_cifar10.yml backbone=dinov2 \\
        transformation_kwargs={} run_name=dinov2
    python -m methods.pretrained --config_exp configs/pretext/pretrained_cifar10.yml weights=own.safetensors
    python -m methods.pretrained --config_exp configs/pretext/pretrained_digits.yml val_db_name=null \\
        backbone=given/384 features_file=own.npy run_name=own \\
        "transformation_kwargs={crop_size: 16, normalize: {mean: [0.3, 0.3, 0.3], std: [0.35, 0.35, 0.35]}}"

Nothing is trained. `backbone` is efficientnet_lite0, efficientnet_lite2 or efficientnet_lite0+efficientnet_lite2, whose
weights are installed with the project, timm/NAME, whose weights come from timm's hub, or dinov2. Writes model.pth.tar,
features-{train,val}.npy and topk-{train,val}-neighbors.npy to {root_dir}/{train_db_name}/pretext, where scan.py and
methods.candidates go on. An interrupted call goes on with the features that are missing.
With backbone=given/D features_file=FILE the features, D numbers an image, are those of a .npy or .parquet file, and
there is no network: methods.candidates clusters them, with the same words and pretext_run=own.
The configs' transformation_kwargs are those of efficientnet_lite0; empty ones are those of any other network.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data.given import FeatureTable, require_different
from models.engine import Engine
from models.models import FeatureModel
from models.plain import is_given
from models.pretrained import build_pretrained
from models.weights import digest, save_weights
from system.console import say
from system.errors import ConfigError
from training.comparison import to_plain
from training.run import Run
from utils import cli, engines, pretext
from utils.common_config import get_backbone, get_crop_size, get_splits
from utils.stage import run_stage


def train(p: Any, run: Run) -> dict[str, Any]:
    """Compute and mine features; returns what they were made from, and purity where there are labels."""
    train_set, val_set = get_splits(p, run)
    pretext.num_to_mine(p, train_set, val_set)  # what would fail after the features fails before them
    if p.features_file or is_given(p.backbone):
        return take_given(p, run, train_set, val_set)
    device, side = run.runtime.device, get_crop_size(p)
    built = build_pretrained(p.backbone, weights=p.weights, side=side, device=device.type, offline=p.offline)
    facts = built["facts"]
    say(f"{facts.name} at side {side}: trained with {facts.trained_with}; license {facts.license}; from {facts.source}")
    model = FeatureModel(built)
    state = model.state_dict()
    model.backbone = Engine(built["backbone"], side, device, engines.recorded_choices(run.folder, device))
    run.try_features(model.backbone, len(train_set) + len(val_set) * (val_set is not train_set), side)
    engines.note(run, model.backbone)  # for the run when it goes on, and for whatever uses its model
    save_weights(p.pretext_model, state, setup=p.setup)
    made_from = {
        "weights": digest(state),
        "views": to_plain(p.transformation_kwargs),
        "engine": asdict(replace(model.backbone.choice, threads=1)),  # no bit depends on the threads
    }
    found = pretext.mine(p, model, run.runtime, train_set, val_set, made_from)
    return {"backbone": asdict(facts)} | found


def take_given(p: Any, run: Run, train_set: Any, val_set: Any) -> dict[str, Any]:
    """Take the features of a file, then mine them; returns the file, and purity where there are labels."""
    if not (p.features_file and is_given(p.backbone)):
        raise ConfigError(
            "features from a file need both keys: features_file=FILE and backbone=given/D, as in given/384"
        )
    if val_set is not train_set:
        raise ConfigError("features_file holds the features of one split; set val_db_name=null")
    built = get_backbone(p)
    table = FeatureTable(Path(p.features_file), built["dim"])
    features = table.select(train_set.paths).to(run.runtime.device)
    require_different(features, table.path)
    words = f"features of {len(features):,} images from {table.path}, {table.dim:,} numbers each"
    run.only_tried(words)
    say(words)
    save_weights(p.pretext_model, FeatureModel(built).state_dict(), setup=p.setup)
    found = pretext.mine_features(p, run.runtime, train_set, val_set, lambda dataset, path: features)
    return {"features_file": str(table.path)} | found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_stage("pretrained", train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
