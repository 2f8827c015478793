"""What a clustering leaves in its folder besides its runs, and what is relied on of what is there already."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat

from recipes.choose import STAGES
from recipes.configs import ALIAS, CONFIGS
from system import owned
from system.bounded import read_json
from system.errors import UserError
from system.files import is_own
from training.folder import CONFIG, MODEL
from training.record import RECORD as RUN
from utils.readings import IMAGES

RECORD, LOG = "cluster.json", "log.txt"
PICTURE = "images.png"
UNREADABLE = "unreadable.txt"
RESULTS = ("report.html", "clusters.csv", UNREADABLE)
INDEX = "index.html"  # compares several numbers of clusters
RIVAL = "scratch"  # the folder of a network from scratch that competes with pretrained features
NUMBERS = "numbers.html"  # shows every number that was tried where it was looked for
DELIVERED = (MODEL, CONFIG, RUN)
"""The model that was chosen, as a run leaves it."""
EARLIER = (RECORD, LOG, PICTURE, IMAGES, *RESULTS, *DELIVERED)
WRITTEN = (*EARLIER, INDEX, NUMBERS)
"""What this program writes into the folder of a clustering itself; earlier versions wrote no index."""


class Images(BaseModel):
    """Which images a clustering began with."""

    model_config = ConfigDict(strict=True)

    count: int
    fingerprint: str


class Outcome(BaseModel):
    """What a clustering came to: its model, and scores by labels, if there are any."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    scores: dict[str, float | int | None]


class ProjectRecord(BaseModel):
    """What is relied on of cluster.json."""

    model_config = ConfigDict(extra="allow", strict=True)

    request: dict[str, Any]
    images: Images
    recipe: str
    reasons: list[str]
    seconds: dict[str, FiniteFloat]
    result: Outcome | None
    minutes: FiniteFloat | None = None
    leave_out: FiniteFloat | Literal["auto"] | None = None
    stages: list[str] = list(STAGES)
    """Earlier versions knew only training from scratch."""


def read_record(folder: Path, what_overwrite_does: str) -> dict[str, Any] | None:
    """What cluster.json says, None where there is none; raises UserError when it is damaged or not of this program."""
    path = folder / RECORD
    try:
        return read_json(path, ProjectRecord)
    except FileNotFoundError:
        return None
    except UserError as error:
        own = is_own(path)
        advice = "put back a copy of it" if own else "move it away"
        more = f" ({what_overwrite_does})" if own else ""
        raise UserError(f"{error}, or not of this program; {advice}, or give another --output{more}") from error


def asked_before(record: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """The request of a record; what earlier versions could not be asked for is as in the `request` of now."""
    return {"features": request.get("features"), "no_flip": False, "flip": False, **record["request"]}


def result_of(record: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a record, its model relative to the folder; earlier versions wrote where that was."""
    result = record["result"]
    return result and {**result, "model": "/".join(Path(result["model"]).parts[-3:])}


def has_run(folder: Path) -> bool:
    """Whether anything ran in an output folder; after a dry run there are but configs."""
    return any((folder / name).exists() for name in (ALIAS, *RESULTS, *DELIVERED))


def adopt(folder: Path, configs: Path) -> None:
    """List what an earlier version wrote into a folder and that of its configs, when it was one."""
    try:
        read_json(folder / RECORD, ProjectRecord)
    except (FileNotFoundError, UserError):
        return
    owned.adopt(folder, EARLIER)
    if configs.is_dir() and not configs.is_symlink():
        owned.adopt(configs, CONFIGS)
