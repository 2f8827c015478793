"""Cluster by K-means: of the pixels, of a pretext run's features, of a pretrained network's, or of a file's.

    python -m methods.kmeans --config_exp configs/methods/kmeans_digits.yml
    python -m methods.kmeans --config_exp configs/methods/kmeans_digits.yml method_kwargs.features=pretext \\
        backbone=resnet8 stem=cifar_s2 run_name=pretext
    python eval.py --config_exp configs/methods/kmeans_digits.yml

What every other clustering is compared with. Features are L2-normalized, reduced to num_dims principal components if
wanted, and clustered from several k-means++ starts, of which the lowest inertia counts. The centroids as a linear head
become {root_dir}/{train_db_name}/kmeans/model.pth.tar, whose largest logit is K-means' own cluster, exactly.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clustering.candidate import predict
from clustering.kmeans import NUM_STARTS, Fit, fit_kmeans
from clustering.prediction import Prediction
from clustering.scores import without_matrix
from data.given import KINDS, FeatureTable
from models.heads import describe_head
from models.loading import load_backbone
from models.models import ClusteringModel, FeatureModel
from models.plain import is_given
from models.pretrained import build_pretrained, is_pretrained
from models.weights import read_weights, save_weights
from report import plots
from report.outputs import write_clusters
from system import owned
from system.console import say
from system.distributed import is_main, on_main
from system.errors import ConfigError
from system.paths import expand_path
from system.sections import GivenPath, Positive
from training.run import Run
from utils import cli, clusters, engines
from utils.common_config import get_backbone, get_crop_size, get_embedder, get_splits
from utils.setups import how_to_run
from utils.stage import run_stage

PICTURE, TABLE = "explained_variance.png", "clusters.csv"


def require_fitting(features: str, backbone: str, side: int) -> None:
    """Raise ConfigError where the backbone is not the network that the features are of."""
    if features == "pixels":
        fits, advice = backbone == f"pixels/{side}", f"set backbone=pixels/{side}, or method_kwargs.features=pretext"
    elif features == "pretext":
        fits = not backbone.startswith(("pixels/", "given/"))
        advice = "set backbone, stem and width to those of the pretext run"
    elif features == "pretrained":
        fits, advice = is_pretrained(backbone), "set backbone to a pretrained one, such as efficientnet_lite0"
    elif features.endswith(KINDS):
        fits, advice = is_given(backbone), "set backbone=given/D, D being how many numbers an image has"
    else:
        allowed = f"pixels, pretext, pretrained, or a {' or '.join(KINDS)} file"
        raise ConfigError(f"method_kwargs.features is {features}; it is {allowed}")
    if not fits:
        raise ConfigError(f"method_kwargs.features is {features}, but backbone is {backbone}; {advice}")


def build_network(p: Any, features: str, device: torch.device) -> dict[str, Any]:
    """The network of the features, with its weights: `{'backbone': module, 'dim': int}`."""
    if features == "pretrained":
        side = get_crop_size(p)
        return build_pretrained(p.backbone, weights=p.weights, side=side, device=device.type, offline=p.offline)
    built = get_backbone(p)
    if features == "pretext":
        load_backbone(FeatureModel(built), read_weights(p.pretext_model, how_to_run("pretext")))
    return built


def train(
    p: Any,
    run: Run,
    *,
    features: GivenPath = "pixels",
    num_dims: Positive | None = None,
    whiten: bool = False,
    num_starts: Positive = NUM_STARTS,
) -> dict[str, Any]:
    """Cluster the training images and save the model; returns its result.

    Args:
        features: what is clustered: pixels, pretext (the backbone of a run), pretrained, or a .npy file with a row for
            each training image, or a .parquet file with their paths.
        num_dims: principal components to cluster; by default the features themselves are.
        whiten: whether each component gets variance 1.
        num_starts: k-means++ starts.
    """
    if whiten and num_dims is None:
        raise ConfigError("method_kwargs.whiten is of principal components; say how many: method_kwargs.num_dims=20")
    require_fitting(features, p.backbone, get_crop_size(p))
    folder = Path(p.kmeans_dir)
    owned.require_own(folder, (PICTURE, TABLE))
    train_set, val_set = get_splits(p, run)
    network = build_network(p, features, run.runtime.device)
    is_file = is_given(p.backbone)
    if is_file:
        points = FeatureTable(Path(expand_path(features)), network["dim"]).select(train_set.paths)
        run.only_tried(f"{len(points):,} features of {points.shape[1]} dimensions are there to be clustered")
    else:
        run.try_features(network["backbone"], len(train_set), get_crop_size(p))
        backbone = engines.prepare(p, network["backbone"], run.folder, run.runtime.device)
        engines.note(run, backbone)
        module = run.runtime.place(FeatureModel({**network, "backbone": backbone}))
        points = get_embedder(p, run.runtime).embed(module, train_set)
    fit = on_main(
        lambda: fit_kmeans(points, p.num_classes, p.seed, num_dims=num_dims, whiten=whiten, num_starts=num_starts)
    )
    found = describe(fit, points, folder)
    model = ClusteringModel(network, p.num_classes, heads=[fit.head])
    save_weights(p.kmeans_model, {"model": model.state_dict(), "head": 0}, setup=p.setup)
    run.describe(head_kwargs=describe_head(fit.head))
    if not is_file:
        return found | clusters.final_scores(p, p.kmeans_model, val_set, run.runtime)
    prediction = Prediction(points, predict(fit.head, points))
    if is_main():
        write_clusters(folder / TABLE, train_set.paths, prediction)
    return found | without_matrix(clusters.score_prediction(prediction, train_set))


def describe(fit: Fit, points: Tensor, folder: Path) -> dict[str, Any]:
    """What can be said of a clustering without labels; draws what the components hold of the variance."""
    facts = {"inertia": fit.inertia, "reproducible": round(fit.reproducible, 4)}
    say(f"two halves of the images, clustered apart, put {100 * fit.reproducible:.1f} % of all into the same cluster")
    if fit.pca is None:
        return facts
    variance = float(fit.head.unit(points).var(0, correction=0).sum())
    shares = (fit.pca.variances.cpu().cumsum(0) / variance).clamp(max=1)  # rank 0's, which may be on another device
    if is_main():
        plots.explained_variance(folder / PICTURE, shares)
    say(f"{len(shares)} principal components hold {100 * float(shares[-1]):.1f} % of the variance")
    return facts | {"num_dims": len(shares), "explained_variance": round(float(shares[-1]), 4)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the method; returns the exit code."""
    return run_stage("kmeans", train, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli.run(main))
