"""A trained clustering model and images that it has not seen: what to load, and how to read them."""

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from easydict import EasyDict
from pydantic import ValidationError
from torch import Tensor

import data.folder
import data.imagenet
from data.files.reading import Reading
from data.files.values import AS_BEFORE
from data.given import FeatureTable
from data.made_up import SHAPES
from models.plain import is_given
from system import owned
from system.console import warn
from system.errors import ConfigError, UserError
from system.files import is_own, remove, verify_file
from system.lock import lock_folder, unlock_folder
from system.paths import expand_path
from system.yaml_file import load_yaml
from training.comparison import map_paths
from training.folder import CONFIG, MODEL
from utils import schema, setups
from utils.config import load_config, require
from utils.readings import read_by

WITHIN = ("", "runs/candidates", "runs/selflabel", "runs/scan")
"""Where in a run folder, or in cluster.py's output, a model is."""
CLASSIFIER = "labels"
"""Where in cluster.py's output label.py puts a classifier of named classes, as a run folder."""
FINETUNED = "finetune"
"""Where in there the runs of label.py --finetune are."""
LABELS = "labels.csv"
"""What label.py puts into cluster.py's output."""
EARLIER = "labels-earlier{}.csv"
"""What it is called where cluster.py starts again."""


def find_model(given: Path, classifier: bool = False) -> Path:
    """The model file of a run folder, of an output folder of cluster.py, or the file itself; raises UserError.

    With `classifier` that of label.py goes first, where there is one.
    """
    if not given.exists():
        above = next((folder for folder in given.parents if folder.is_dir()), Path())
        raise UserError(
            f"{given} does not exist ({above} does); give a run folder (such as results/digits/scan), the output "
            "folder of cluster.py, or a model file"
        )
    if not given.is_dir():
        return given
    for place in (CLASSIFIER, *WITHIN) if classifier else WITHIN:
        if (given / place / MODEL).is_file():
            return given / place / MODEL
    several = sorted(path.parent.name for path in given.glob(f"k[0-9]*/{MODEL}"))
    if several:
        raise UserError(
            f"{given} holds clusterings of several numbers of clusters; give one of them: {given / several[0]}"
            f"{f' to {several[-1]}' if len(several) > 1 else ''}"
        )
    begun = " yet (its training has begun; the same command continues it)" if (given / CONFIG).is_file() else ""
    raise UserError(
        f"{given} holds no {MODEL}{begun}; give a run folder (such as results/digits/scan), the output folder of "
        "cluster.py, or a model file"
    )


def keep_labels(output: Path) -> Path | None:
    """Move the labels.csv of an output that starts again out of the way; returns where it is now, if there was one.

    It holds what a person did, which nothing here can make again, and fits every clustering of the same images.
    """
    if not is_own(output / LABELS):
        return None
    names = (EARLIER.format("" if number == 1 else f"-{number}") for number in itertools.count(1))
    kept = next(output / name for name in names if not os.path.lexists(output / name))
    (output / LABELS).rename(kept)
    remove(output / LABELS)
    return kept


def find_earlier_labels(output: Path) -> Path | None:
    """The labels that were put out of the way last, where none have been given since."""
    kept = sorted(output.glob(EARLIER.format("*")), key=lambda path: (len(path.name), path.name))
    return kept[-1] if kept and not (output / LABELS).exists() else None


def remove_classifier(output: Path) -> bool:
    """Remove label.py's classifier from cluster.py's output, never the user's files; whether one was there."""
    folder = output / CLASSIFIER
    found = is_own(folder / MODEL) and not folder.is_symlink()
    if not folder.is_symlink():
        remove_runs(folder / FINETUNED / "pretext")
        owned.remove_if_empty(folder / FINETUNED)
    owned.clear(folder)
    owned.remove_if_empty(folder)
    return found


def remove_runs(folder: Path, kept: str = "") -> None:
    """Remove the runs in a folder, but for the one that is `kept`, and never the user's files.

    Raises UserError when another process is at work in one.
    """
    for run in sorted(folder.glob("*")) if not folder.is_symlink() else ():
        if run.name != kept and run.is_dir() and not run.is_symlink():
            lock_folder(run, "wait for it")
            owned.clear(run)
            unlock_folder(run)
            owned.remove_if_empty(run)
    owned.remove_if_empty(folder)


def load_model_config(model: Path, env: str | None, exp: str | None) -> EasyDict:
    """The config of a model: the resolved one next to it, or the one that is named.

    Raises UserError when there is none, or when it is damaged, incomplete or not of a clustering stage.
    """
    path = model.parent / CONFIG
    if exp is not None:
        p = load_config(env, exp)
    elif path.exists():
        verify_file(path)
        p = _read_resolved(path)
    else:
        raise UserError(
            f"there is no {CONFIG} next to {model}, where runs write it; name the model's config: --config_exp FILE"
        )
    if p.setup not in setups.SETUPS or setups.SETUPS[p.setup].stage == "pretext":
        raise UserError(
            f"{model} is a model of the stage {p.setup}, which has no clusters; give that of scan.py or selflabel.py"
        )
    require(p, "num_classes", "transformation_kwargs", script="predict.py")
    return p


def check_input(p: EasyDict, features: str | None) -> None:
    """Raise ConfigError unless a model is given what it clusters: images, or the features that it is of."""
    if is_given(p.backbone) and not features:
        raise ConfigError(
            "this model clusters features that came from a file; give those of the new images, made in the same way: "
            "--features NEW.npy or NEW.parquet"
        )
    if features and not is_given(p.backbone):
        raise ConfigError(f"--features is for models of features from a file; this one has {p.backbone}, leave it out")


def match_features(table: FeatureTable, words: Sequence[str], paths: Iterable[str]) -> tuple[Sequence[str], Tensor]:
    """The paths that `words` name, and their features `[N, D]`; without words the file's own.

    Raises UserError when they do not fit, ConfigError when a file names paths and `words` are not their folder.
    """
    if table.paths is None:
        if not words:
            raise ConfigError(f"{table.path} has no paths; name the images whose features it holds, as IMAGES")
        found = list(paths)
        return found, table.select(found)
    if not words:
        return table.paths, table.select(table.paths)
    if len(words) > 1 or not Path(words[0]).is_dir():
        raise ConfigError(f"{table.path} names images by their place in a folder; give that one folder as IMAGES")
    found = list(paths)
    return found, table.select([os.path.relpath(path, words[0]) for path in found])


def _read_resolved(path: Path) -> EasyDict:
    try:
        content = anchor(load_yaml(path), path.parent)
        known = {key: value for key, value in content.items() if key in schema.Config.model_fields}
        checked = schema.Config.model_validate(known).model_dump()
    except (ConfigError, ValidationError) as error:
        raise UserError(
            f"{path} is not the config of a run ({str(error).splitlines()[0]}); name one: --config_exp FILE"
        ) from error
    return EasyDict({**content, **checked})


def relative_config(path: Path, folder: Path) -> dict[str, Any]:
    """The config of a run, its paths of results told from another folder."""
    return anchor(load_yaml(path), path.parent, told_from=folder)


def anchor(content: dict[str, Any], folder: Path, told_from: Path | None = None) -> dict[str, Any]:
    """A run's config with its paths of results as they are now that the run is in `folder`, or as told from another.

    They are relative to that folder; earlier versions wrote whole paths, and results may have been moved since. A cache
    outside the results stays where it is.
    """
    setup = setups.SETUPS.get(str(content.get("setup")))
    own = content.get(f"{setup.stage}_dir") if setup else None
    if not isinstance(own, str):
        return content
    is_earlier, root = Path(own).is_absolute(), expand_path(str(content.get("root_dir") or "/"))

    def place(path: str) -> str:
        whole = expand_path(path)
        if Path(whole).is_absolute() and not (is_earlier and Path(whole).is_relative_to(root)):
            return whole
        found = os.path.normpath(folder / (os.path.relpath(whole, own) if is_earlier else path))
        return os.path.relpath(found, told_from) if told_from else found

    return map_paths(content, place)


def reading(p: EasyDict, model: Path) -> Reading:
    """How the stage read its images: as its run recorded it, or else, for earlier outputs, as its config says."""
    recorded = read_by(model.parent)
    if recorded is not None:
        return recorded
    kwargs, size = p.train_db_kwargs, p.transformation_kwargs.crop_size
    resize, stream = kwargs.get("resize"), kwargs.get("stream", "auto")
    if p.train_db_name in data.imagenet.BUILDERS:
        side, streamed = data.imagenet.reading(size, resize, stream)
    elif p.train_db_name == "folder":
        num_images = num_training_images(p, model) if stream == "auto" else 0
        side, streamed = data.folder.reading(num_images, size, resize, stream)
    else:
        side = SHAPES[p.train_db_name][0] if p.train_db_name in SHAPES else size  # a crop may be smaller
        return Reading(side, False, AS_BEFORE)
    resized_first = p.train_db_name in data.imagenet.BUILDERS
    return Reading(side, streamed and not kwargs.get("cache_dir"), AS_BEFORE, resized_first=resized_first)


def num_training_images(p: EasyDict, model: Path) -> int:
    """How many images the pretext task saw, as its neighbor file says; 0 and a warning when there is none."""
    neighbors, own = p.get("topk_neighbors_train_path"), p.get(f"{p.setup}_dir")
    if neighbors and own:
        path = model.parent / os.path.relpath(neighbors, own)  # results may have been moved as a whole
        if path.is_file():
            num_images = (verify_file(path) or {}).get("num_images")
            return num_images if type(num_images) is int else 0
    warn("the size of the training folder is unknown, so images are read as from one that fits into memory")
    return 0
