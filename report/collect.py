"""From a stage's prediction to the page that shows it, and to the list of clusters."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from easydict import EasyDict
from PIL import Image

from clustering import scores as evaluate
from data.files.decode import BadImageError, read_image
from system.console import warn
from system.files import write_file
from training.folder import METRICS, RECORD
from utils.clusters import Prediction
from utils.schema import STAGE_OF, STAGES

THUMBNAIL_SIDE = 256
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of a formula


def write_report(
    path: Path, p: EasyDict, model_path: Path, dataset: Any, prediction: Prediction, scores: dict[str, Any]
) -> None:
    """Write report.html of a clustering model's prediction; raises UserError when it cannot be written."""
    from report import ReportData
    from report import write_report as write  # templates and charts take a second to import

    own = model_path.parent.resolve() == Path(p[f"{p.setup}_dir"]).resolve()
    data = ReportData(
        title=f"{len(dataset):,} images of {dataset.root.name if dataset.root else dataset.name}",
        paths=dataset.paths,
        thumbnail=Thumbnails(dataset),
        probabilities=prediction.probabilities.float().cpu().numpy(),
        features=prediction.features.float().cpu().numpy(),
        targets=dataset.targets.cpu().numpy() if dataset.has_labels else None,
        classes=dataset.classes,
        matching=scores.get("matching"),
        metrics=metrics_so_far(p) if own else {},
        facts=facts_of(p, model_path, own),
        scores=scores,
        image_root=dataset.root,
        prototypes=evaluate.prototypes(prediction.features, prediction.probabilities),
    )
    write(path, data, seed=p.seed)


class Thumbnails:
    """Pictures of a data set for showing: from the files where there are any, else as the stages see them."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, index: int) -> Image.Image | np.ndarray:
        """Image `index`, as a picture or uint8 `[3, H, W]`; a file that went away is shown from memory.

        Raises UserError when the data set does not hold its images in memory either.
        """
        if self.dataset.root is not None:
            try:
                return read_image(f"{self.dataset.root}/{self.dataset.paths[index]}", THUMBNAIL_SIDE)[0]
            except BadImageError:
                pass
        return self.dataset.image(index).cpu().numpy()


def metrics_so_far(p: EasyDict) -> dict[str, list[dict[str, Any]]]:
    """The lines of metrics.jsonl of every stage up to this config's own, where there are any."""
    found = {}
    for stage in STAGES[: STAGES.index(STAGE_OF[p.setup]) + 1]:
        path = Path(p[f"{stage}_dir"]) / METRICS
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        except FileNotFoundError:
            continue
        except ValueError:
            warn(f"{path} is damaged; its curves are left out")
            continue
        if lines:
            found[stage] = lines
    return found


def facts_of(p: EasyDict, model_path: Path, own: bool) -> dict[str, Any]:
    """How a result was made: model, data, the config's main keys, and what run.json tells."""
    keys = ("setup", "train_db_name", "num_classes", "backbone", "stem", "width", "epochs", "batch_size", "seed")
    facts: dict[str, Any] = {"model": str(model_path)} | {key: p[key] for key in keys if p.get(key) is not None}
    facts["crop_size"] = p.transformation_kwargs.crop_size
    record = Path(p[f"{p.setup}_dir"]) / RECORD
    if own and record.exists():
        try:
            told = json.loads(record.read_text(encoding="utf-8"))
        except ValueError:
            warn(f"{record} is damaged; what it tells is left out")
            told = {}
        facts |= {key: told[key] for key in ("device", "precision", "seconds", "commit", "versions") if told.get(key)}
    return facts


def safe_path(path: str) -> str:
    """A path that no spreadsheet takes for a formula, and that still leads to the file."""
    return f"./{path}" if path.startswith(FORMULA) else path


def header(top_k: int = 1) -> list[str]:
    """The columns of a list of clusters."""
    more = [f"{name}_{k}" for k in range(2, top_k + 1) for name in ("cluster", "confidence")]
    return ["path", "cluster", "confidence", *more]


def rows(paths: Sequence[str], prediction: Prediction, top_k: int = 1) -> Iterator[list[Any]]:
    """A row an image: its path, its cluster and confidence, and the next ones up to `top_k`."""
    confidence, clusters = prediction.probabilities.float().cpu().topk(top_k, dim=1)
    for path, values, numbers in zip(paths, confidence.tolist(), clusters.tolist(), strict=True):
        pairs = [x for pair in zip(numbers, (round(value, 6) for value in values), strict=True) for x in pair]
        yield [safe_path(path), *pairs]


def encode_rows(lines: Iterable[Sequence[Any]]) -> bytes:
    """Rows as CSV; the bytes of a file name that are no UTF-8 stay as they are."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode("utf-8", "surrogateescape")


def write_clusters(path: Path, paths: Sequence[str], prediction: Prediction) -> None:
    """Write clusters.csv: `path,cluster,confidence`, one row an image; raises UserError when it cannot be written."""
    data = encode_rows([header(), *rows(paths, prediction)])
    write_file(path, lambda file: file.write(data), record=False)
