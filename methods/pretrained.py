"""Take features from a network that somebody else has trained, then mine every image's nearest neighbors.

    python -m methods.pretrained --config_exp configs/pretext/pretrained_digits.yml
    python -m methods.pretrained --config_exp configs/pretext/pretrained_cifar10.yml backbone=dinov2
    python -m methods.pretrained --config_exp configs/pretext/pretrained_cifar10.yml weights=own.safetensors

Nothing is trained. `backbone` is efficientnet_lite0 or efficientnet_lite2, whose weights are installed with the
project, timm/NAME, whose weights come from timm's hub, or dinov2. Writes model.pth.tar, features-{train,val}.npy and
topk-{train,val}-neighbors.npy to {root_dir}/{train_db_name}/pretext, where scan.py and methods.candidates go on.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from models.engine import Engine
from models.models import FeatureModel
from models.pretrained import build_pretrained
from models.weights import save_weights
from system.console import say
from training.run import Run
from training.trial import Trial
from utils import cli, pretext
from utils.common_config import get_crop_size, get_splits
from utils.stage import run_stage


def train(p: Any, run: Run) -> dict[str, Any]:
    """Compute and mine features; returns what they were made from, and purity where there are labels."""
    train_set, val_set = get_splits(p, run)
    pretext.num_to_mine(p, train_set, val_set)  # what would fail after the features fails before them
    device, side = run.runtime.device, get_crop_size(p)
    built = build_pretrained(p.backbone, weights=p.weights, side=side, device=device.type, offline=p.offline)
    facts = built["facts"]
    say(f"{facts.name} at side {side}: trained with {facts.trained_with}; licence {facts.license}; from {facts.source}")
    model = FeatureModel(built)
    state = model.state_dict()
    model.backbone = Engine(built["backbone"], side, device)
    made_from = {"backbone": asdict(facts), "engine": asdict(model.backbone.choice)}
    if isinstance(run, Trial):
        run.try_features(model.backbone, len(train_set) + len(val_set) * (val_set is not train_set), side)
        return {}
    save_weights(p.pretext_model, state, setup=p.setup)
    return made_from | pretext.mine(p, model, run.runtime, train_set, val_set)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_stage("pretrained", train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
