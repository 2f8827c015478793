"""What a run recorded of its images: how they were read, and the classes of its outputs.

Before the first run, cluster.py's look at the folder says how they are read.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.files.reading import Found, Reading, record_of, values_of
from data.files.values import AS_BEFORE, Values
from system.bounded import read_json
from system.console import warn
from system.errors import UserError
from system.files import write_text
from system.paths import expand_path
from system.yaml_file import load_yaml
from training.folder import CONFIG
from training.record import RECORD, read_record
from utils.setups import SETUPS, STAGES

IMAGES = "images.json"  # in an output folder of cluster.py: how the folder of images is read


def read_by(folder: Path) -> Reading | None:
    """How a run in a folder read its images; None where it did not record it. A damaged record is warned of."""
    recorded = read_record(folder).get("images")
    try:
        return None if recorded is None else Reading.from_record(recorded)
    except ValueError:
        warn(f"{folder / RECORD} does not say how images were read; it is determined again")
        return None


def recorded_values(folder: Path) -> Values | None:
    """By what a run in a folder read wide gray; None where there was no run, or none that came so far.

    Runs of the first version recorded nothing, and are read as they were.
    """
    record = read_record(folder)
    if record and "images" not in record:
        return AS_BEFORE
    found = read_by(folder) if record else None
    return found.values if found else None


def recorded_classes(p: Any, folder: Path) -> list[str] | None:
    """The classes of the training split, in the order of a classifier's outputs; None where nothing says so."""
    own = folder / CONFIG
    if SETUPS[p["setup"]].num_outputs != "num_classes" or not own.exists():
        return None
    return load_yaml(own).get("class_names")


def known_values(p: Any) -> Values | None:
    """By what this stage, or one before it, read wide gray; None where nothing came before.

    `p.image_values` says it first: a command that goes by a model of another folder sets it. Before the first stage,
    cluster.py's look at the folder says it.
    """
    if p.get("image_values"):
        return p["image_values"]
    stage = SETUPS[p["setup"]].stage if p.get("setup") in SETUPS else STAGES[0]
    before = STAGES[: STAGES.index(stage)] if stage in STAGES else ()
    folders = [Path(p[f"{name}_dir"]) for name in (stage, *reversed(before)) if p.get(f"{name}_dir")]
    return next((found for folder in folders if (found := recorded_values(folder))), None) or looked_at(p)


def note_look(folder: Path, root: Path, values: Values, found: Found) -> None:
    """Write how the images in `root` are read to an output folder, for the stages that will write there."""
    facts = {"root": str(root.resolve()), "values": record_of(values), "found": asdict(found)}
    write_text(folder / IMAGES, json.dumps(facts, indent=1) + "\n", listed=True)


def looked_at(p: Any) -> Values | None:
    """What `note_look` wrote for the images of a config, if it did."""
    root = (p.get("train_db_kwargs") or {}).get("root")
    if not (root and p.get("root_dir")):
        return None
    try:
        facts = read_json(Path(p["root_dir"]) / IMAGES, dict[str, Any])
        return values_of(facts["values"]) if facts["root"] == str(Path(expand_path(root)).resolve()) else None
    except (OSError, UserError, ValueError, TypeError, KeyError, AttributeError):
        return None  # it is determined again
