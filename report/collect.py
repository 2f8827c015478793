"""From a stage's prediction and the runs that led to it to the page that shows it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clustering.prediction import Prediction
from data.files.decode import read_image
from data.files.formats import BadImageError
from data.files.values import Values
from system.bounded import read_json_lines
from system.console import warn
from system.errors import UserError
from training.folder import METRICS
from training.record import read_network, read_record

THUMBNAIL_SIDE = 256


def write_report(
    path: Path,
    config: Mapping[str, Any],
    model_path: Path,
    folders: Mapping[str, Path],
    dataset: Any,
    prediction: Prediction,
    scores: dict[str, Any],
    verdict: Mapping[str, Any] | None = None,
    neighbors: np.ndarray | None = None,
    unreadable: Sequence[str] | None = None,
) -> None:
    """Write report.html of a clustering model's prediction; raises UserError when it cannot be written.

    `folders` are the run folders that led to the model, by stage, its own last; empty for a foreign model.
    `verdict` says which of several candidates this is; `neighbors` [N, K + 1] are those in its features, if known;
    `unreadable` are files that were left out, None: unknown.
    """
    from report.build import write_report as write  # templates and charts take a second to import
    from report.contents import ReportData

    thumbnails = Thumbnails(dataset)
    data = ReportData(
        title=f"{len(dataset):,} images of {dataset.root.name if dataset.root else dataset.name}",
        paths=dataset.paths,
        thumbnail=thumbnails,
        probabilities=prediction.probabilities.float().cpu().numpy(),
        features=prediction.features.float().cpu().numpy(),
        targets=dataset.targets.cpu().numpy() if dataset.has_labels else None,
        classes=dataset.classes,
        matching=scores.get("matching"),
        metrics=read_metrics(folders),
        facts=facts_of(config, model_path, folders),
        left_out=None if prediction.left_out is None else prediction.left_out.cpu().numpy(),
        scores=scores,
        verdict=verdict,
        image_root=dataset.root,
        neighbors=neighbors,
        unreadable=unreadable,
        whole=thumbnails.whole,
        tile=None if dataset.root is not None and dataset.reading and dataset.reading.streamed else thumbnails.small,
    )
    write(path, data, seed=config["seed"])


class Thumbnails:
    """Pictures of a data set for showing: from the files where there are any, else as the stages see them."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.values = dataset.reading.values if dataset.reading else Values()

    def __call__(self, index: int) -> Image.Image | np.ndarray:
        """Image `index`, as a picture or uint8 `[3, H, W]`; a file that went away is shown from memory.

        Raises UserError when the data set does not hold its images in memory either.
        """
        if self.dataset.root is not None:
            try:
                path = f"{self.dataset.root}/{self.dataset.paths[index]}"
                return read_image(path, THUMBNAIL_SIDE, self.values)[0]
            except BadImageError:
                pass
        return self.dataset.image(index).cpu().numpy()

    def whole(self, index: int) -> Image.Image | np.ndarray:
        """Image `index` at its full size; raises UserError when its file cannot be read any more."""
        if self.dataset.root is None:
            return self.dataset.image(index).cpu().numpy()
        try:
            return read_image(f"{self.dataset.root}/{self.dataset.paths[index]}", None, self.values)[0]
        except BadImageError as error:
            raise UserError(str(error)) from error

    def small(self, index: int) -> np.ndarray:
        """Image `index` as the stages see it, uint8 `[3, H, W]`: from memory, where the data set is there."""
        return self.dataset.image(index).cpu().numpy()


def read_metrics(folders: Mapping[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """The lines of metrics.jsonl of every stage, where there are any."""
    found = {}
    for stage, folder in folders.items():
        path = folder / METRICS
        try:
            lines = read_json_lines(path)
        except FileNotFoundError:
            continue
        except UserError as error:
            warn(f"{error}; its curves are left out")
            continue
        if lines:
            found[stage] = lines
    return found


def facts_of(config: Mapping[str, Any], model_path: Path, folders: Mapping[str, Path]) -> dict[str, Any]:
    """How a result was made: model, data, the config's main keys, and what run.json says.

    Of a pretrained network: also what it was trained with, its license and where it is from.
    """
    keys = ("setup", "train_db_name", "num_classes", "backbone", "stem", "width", "epochs", "batch_size", "seed")
    facts: dict[str, Any] = {"model": str(model_path)} | {
        key: config[key] for key in keys if config.get(key) is not None
    }
    facts["crop_size"] = config["transformation_kwargs"]["crop_size"]
    if not folders:
        return facts
    network = read_network(Path(config["pretext_dir"]))
    facts |= {key: network[key] for key in ("trained_with", "license", "source") if key in network}
    record = read_record(list(folders.values())[-1])
    return facts | {
        key: record[key] for key in ("device", "precision", "seconds", "commit", "versions") if record.get(key)
    }
