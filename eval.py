"""Score a model: published or own, of any stage.

    python eval.py --config_exp configs/scan/scan_digits.yml --model results/digits/scan/model.pth.tar
    python eval.py --config_exp configs/scan/scan_cifar10.yml --model scan_cifar-10.pth.tar --visualize_prototypes
    python eval.py --config_exp configs/pretext/simclr_digits.yml --kmeans --knn

Pretext models: purity of the neighbors; of a supervised one also accuracy and Top-5 of its classifier. Models of scan,
selflabel and the clusterings in methods: ACC, NMI, ARI, AMI, Top-5, confusion matrix, and on request prototypes. Labels
only score. Reads only the split it scores; --kmeans and --knn also read the training split.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easydict import EasyDict

from clustering.neighbors import mine_over_ranks, purity
from clustering.scores import score_classes, without_matrix
from models.models import FeatureModel
from models.plain import is_given
from report.places import Places
from report.targets import Targets
from system.console import say, warn
from system.distributed import is_main
from system.errors import ConfigError, UserError
from system.files import write_text
from system.runtime import Runtime
from training.comparison import to_plain
from utils import baselines, cli, clusters, engines, pretext
from utils.common_config import get_embedder, get_model, get_train_dataset, get_val_dataset
from utils.config import require
from utils.readings import read_by, recorded_classes, recorded_values
from utils.setups import SETUPS, how_to_train


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate; returns the exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--model", type=cli.path, metavar="FILE", help="the model file (default: the config's own model.pth.tar)"
    )
    parser.add_argument("--split", choices=("train", "val"), default="val", help="which images to score (default: val)")
    parser.add_argument("--visualize_prototypes", action="store_true", help="draw each cluster's most typical image")
    parser.add_argument("--kmeans", action="store_true", help="cluster the features by K-means, for comparison")
    parser.add_argument("--kmeans_runs", type=cli.positive, default=5, metavar="N", help="K-means runs (default: 5)")
    parser.add_argument("--knn", action="store_true", help="accuracy of the weighted k-NN vote of the training split")
    parser.add_argument("--report", action="store_true", help="write report.html, a page to look through the clusters")
    parser.add_argument(
        "--out", type=cli.path, metavar="DIR", help="where pictures and report.html go (default: next to the model)"
    )
    parser.add_argument("--json", type=cli.path, metavar="FILE", help="also write what is printed as JSON")
    p, args = cli.configure(parser, argv, *SETUPS)
    require(p, "transformation_kwargs", script="eval.py")
    stage = SETUPS[p.setup].stage
    if args.report and stage == "pretext":
        raise ConfigError("--report shows clusters; give the config of a scan or self-label model")
    if (args.kmeans or args.knn) and is_given(p.backbone):
        raise ConfigError("--kmeans and --knn need a network, and this model has features of a file; leave them out")
    runtime = Runtime.of(p)
    path = Path(args.model or p[f"{stage}_model"])
    p.image_values = recorded_values(path.parent)
    Targets({"--json": args.json}, [], [path, Path(args.config_exp)])  # what is in the way is said before it is scored
    command = how_to_train(p, args.config_env, args.config_exp, args.overrides)
    advice = (f"train it ({command}), or " if command else "") + "name a file with --model"
    advice = "check the path" if args.model else advice
    evaluation = (PretextEvaluation if stage == "pretext" else ClusterEvaluation)(p, path, runtime, advice)
    trained: dict[str, Any] = {"classes": recorded_classes(p, path.parent), "reading": read_by(path.parent)}
    dataset = get_val_dataset(p, **trained) if args.split == "val" else get_train_dataset(p, None)
    if (args.kmeans or args.knn) and not dataset.has_labels:
        raise UserError(f"--kmeans and --knn are scored by labels, and the {args.split} split has none; leave them out")
    say(f"{path} on {len(dataset)} {args.split} images of {dataset.name}")
    scores = evaluation.scores(dataset, runtime, Places(path, args.split, args.out), args)
    scores |= baselines.compare(p, evaluation.module, dataset, runtime, args)
    if args.json and is_main():
        write_text(args.json, json.dumps(to_plain(scores), indent=1) + "\n")
    return 0


class PretextEvaluation:
    """Purity of the neighbors among the images of the split."""

    def __init__(self, p: EasyDict, path: Path, runtime: Runtime, advice: str) -> None:
        self.p, self.model = p, get_model(p, path, advice)
        if isinstance(self.model, FeatureModel):
            self.model.backbone = engines.prepare(p, self.model.backbone, path.parent, runtime.device)
        self.module = pretext.feature_module(p, self.model)

    def scores(self, dataset: Any, runtime: Runtime, places: Places, args: Any) -> dict[str, Any]:
        """Print and return `{"purity": {"1": …, "5": …, "20": …}}`."""
        runtime.place(self.model)
        if args.visualize_prototypes:
            warn("a pretext model has no clusters, so no prototypes; give the config of a scan or self-label model")
        if not dataset.has_labels:
            say("there are no labels, so the purity of the neighbors is unknown")
            return {}
        num_neighbors = min(max(pretext.PURITY_AT), len(dataset) - 1)
        features = get_embedder(self.p, runtime).embed(self.module, dataset)
        found = mine_over_ranks(features, num_neighbors, self.p.neighbors, dims=pretext.network_dims(self.model))
        shares = purity(found, dataset.targets.numpy(), pretext.PURITY_AT)
        for k, share in shares.items():
            say(f"purity at {k}: {100 * share:.2f} %")
        return {"purity": {str(k): share for k, share in shares.items()}} | self._score_classifier(dataset, runtime)

    def _score_classifier(self, dataset: Any, runtime: Runtime) -> dict[str, float]:
        """Print and return `{"acc", "top5"}` of a classifier that was trained with labels."""
        if SETUPS[self.p.setup].num_outputs != "num_classes":
            return {}
        scores = score_classes(get_embedder(self.p, runtime).embed(self.model, dataset), dataset.targets)
        say(f"classifier: ACC {100 * scores['acc']:.2f} %  Top-5 {100 * scores['top5']:.2f} %", "green")
        return scores


class ClusterEvaluation:
    """Scores, confusion matrix and prototypes of a clustering model."""

    def __init__(self, p: EasyDict, path: Path, runtime: Runtime, advice: str) -> None:
        require(p, "num_classes", script="eval.py")
        self.p, self.path = p, path
        self.model, self.head = clusters.load_for_prediction(p, path, runtime, advice)
        if self.model.nclusters != p.num_classes:
            raise UserError(
                f"{path} has {self.model.nclusters} clusters, but num_classes of the config is {p.num_classes}; give "
                f"num_classes={self.model.nclusters}, or another model"
            )
        self.module = self.model.backbone

    def scores(self, dataset: Any, runtime: Runtime, places: Places, args: Any) -> dict[str, Any]:
        """Print and return the scores; draw them, and what else is asked for, at `places`."""
        prediction = clusters.predict_split(self.p, self.model, self.head, dataset, runtime)
        scores = clusters.score_prediction(prediction, dataset)
        if scores:
            say(clusters.words(scores, self.p.num_classes), "green")
            if is_main() and clusters.draw_confusion(places("confusion_matrix.png"), scores, dataset):
                say(f"confusion matrix: {places('confusion_matrix.png')}")
        else:
            say("there are no labels to score with")
        path, wanted = places("prototypes.png"), args.visualize_prototypes and is_main()
        if wanted and clusters.draw_prototypes(path, prediction, scores.get("matching", []), dataset):
            say(f"prototypes: {path}")
        if args.report and is_main():
            clusters.write_report(places("report.html"), self.p, self.path, dataset, prediction, scores)
            say(f"report: {places('report.html')}")
        return without_matrix(scores)


if __name__ == "__main__":
    sys.exit(cli.run(main))
