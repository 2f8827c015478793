"""The whole method on scikit-learn's handwritten digits: learn features, mine neighbors, cluster, refine, score.

    python demo.py

Everything goes to results/digits; a second call prints what is there. Takes one to three minutes on two CPU cores.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import eval as evaluation
from clustering.kmeans import score_kmeans
from clustering.prediction import predict
from recipes.deliver import choose_row
from recipes.finalists import BEST, NAMES, Finalist, score_finalist
from report import plots
from system.console import say
from system.errors import UserError
from system.files import write_text
from system.runtime import Runtime, generator
from training.record import read_record
from utils import cli, clusters
from utils.common_config import get_embedder, get_train_dataset, get_val_dataset
from utils.config import REPOSITORY, load_config
from utils.mined import load_val_neighbors
from utils.stage import main_of

CONFIGS = {
    "pretext": REPOSITORY / "configs/pretext/simclr_digits.yml",
    "scan": REPOSITORY / "configs/scan/scan_digits.yml",
    "selflabel": REPOSITORY / "configs/selflabel/selflabel_digits.yml",
}
KMEANS_RUNS = 5
METRICS = ("acc", "nmi", "ari")
SHOWN = 20  # images of a cluster in the picture
ROWS = {
    "kmeans-pixels": "K-means on pixels",
    "kmeans-pretext": "K-means on pretext features",
    "scan": "SCAN",
    "selflabel": "SCAN + self-labeling",
}


def run_recipe(overrides: Sequence[str] = ()) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Run what is left of the stages; returns ACC, NMI, ARI of each row and the seconds of each stage."""
    seconds = {}
    for stage, config in CONFIGS.items():
        p = load_config(None, config, overrides)
        code = main_of(p.setup)(["--config_exp", str(config), *overrides])
        if code:
            raise UserError(f"the stage {stage} ended with exit code {code}")
        seconds[stage] = read_record(Path(p[f"{stage}_dir"]))["seconds"]
    scores = {
        "kmeans-pixels": kmeans_of_pixels(overrides),
        "kmeans-pretext": evaluate_stage("pretext", [*overrides, "--kmeans"])["kmeans"],
        "scan": evaluate_stage("scan", [*overrides, "--visualize_prototypes"]),
        "selflabel": evaluate_stage("selflabel", [*overrides, "--visualize_prototypes"]),
    }
    return {row: {name: number(found[name]) for name in METRICS} for row, found in scores.items()}, seconds


def number(score: Any) -> float:
    """A score, or the mean of one over several runs."""
    return round(score["mean"] if isinstance(score, dict) else score, 6)


def evaluate_stage(stage: str, words: Sequence[str]) -> dict[str, Any]:
    """What eval.py says of a stage's model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.json"
        command = ["--config_exp", str(CONFIGS[stage]), "--json", str(path), "--kmeans_runs", str(KMEANS_RUNS), *words]
        if evaluation.main(command):
            raise UserError(f"eval.py failed on the stage {stage}")
        return json.loads(path.read_text())


def kmeans_of_pixels(overrides: Sequence[str]) -> dict[str, Any]:
    """What the images' own pixels give K-means."""
    p = load_config(None, CONFIGS["pretext"], overrides)
    train, val = get_train_dataset(p, None), get_val_dataset(p)
    pixels = [dataset.images.flatten(1).float() for dataset in (train, val)]
    found = score_kmeans(pixels[0], pixels[1], val.targets, p.num_classes, KMEANS_RUNS, p.seed)
    return {name: {"mean": mean} for name, (mean, _) in found.items()}


def draw_clusters(overrides: Sequence[str], path: Path) -> None:
    """A picture of what SCAN found: a row of random test images for every cluster."""
    p = load_config(None, CONFIGS["scan"], overrides)
    val = get_val_dataset(p)
    runtime = Runtime.of(p)
    prediction = predict(*clusters.load_for_prediction(p, p.scan_model, runtime), val, get_embedder(p, runtime))
    assigned = prediction.probabilities.argmax(1).cpu()
    shuffled = torch.randperm(len(val), generator=generator(p.seed, "picture"))
    members = [shuffled[assigned[shuffled] == cluster] for cluster in assigned.unique()]
    columns = min(SHOWN, min(len(found) for found in members))
    images = torch.stack([val.load(found[:columns], "cpu") for found in members])
    plots.image_sheet(path, images, [""] * columns)


def choose_model(overrides: Sequence[str]) -> tuple[dict[str, dict[str, float]], str]:
    """Score the models by the judge, without labels, on neighbors in the test split's pretext features.

    Returns rows for the summary, ACC, NMI, ARI of every model and of the chosen one, and why that one was chosen.
    """
    p = load_config(None, CONFIGS["selflabel"], overrides)
    val, runtime = get_val_dataset(p), Runtime.of(p)
    neighbors = load_val_neighbors(p, val)
    files = {"scan": Path(p.scan_model), "last": Path(p.selflabel_model), "best": Path(p.selflabel_dir) / BEST}
    found = []
    for name, path in files.items():
        prediction = predict(*clusters.load_clustering(p, path), val, get_embedder(p, runtime))
        found.append(Finalist(NAMES[name], name, path, prediction))
    chosen, reason = choose_row([score_finalist(finalist, neighbors, val) for finalist in found])
    rows = {}
    for key, finalist in [("selflabel-best", found[-1]), ("chosen", found[chosen])]:
        scores = clusters.score_prediction(finalist.prediction, val)
        rows[key] = {name: number(scores[name]) for name in METRICS}
    return rows, reason


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = cli.base_parser(__doc__)
    overrides = parser.parse_intermixed_args(argv).overrides
    scores, seconds = run_recipe(overrides)
    others, reason = choose_model(overrides)
    scores |= others
    folder = Path(load_config(None, CONFIGS["scan"], overrides).scan_dir).parent
    write_text(folder / "summary.json", json.dumps(scores, indent=1) + "\n", listed=True)
    draw_clusters(overrides, folder / "clusters.png")

    say("")
    say("Test split; labels only score.                         ACC      NMI      ARI")
    for row, title in [*ROWS.items(), ("chosen", "chosen without labels")]:
        say(f"  {title:<48}" + "".join(f"{100 * scores[row][name]:>7.1f} %" for name in METRICS))
    say(f"  ({reason})")
    say("  (Digits are too easy for self-labeling: it often costs a point here; the paper gains several on CIFAR-10.)")
    say("Seconds: " + ", ".join(f"{stage} {taken:.0f}" for stage, taken in seconds.items()))
    say("To look at:")
    for picture in [folder / "clusters.png", *sorted(folder.glob("*/*.png"))]:
        say(f"  {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
