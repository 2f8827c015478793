"""What `--minutes` means: for how long the clusters of a project are refined, all stages and calls together.

From six minutes on, a network trained on the images alone competes with pretrained features, within the same minutes.
"""

import math
import re
from pathlib import Path

from models.pretrained import is_pretrained
from recipes.choose import STAGES
from recipes.configs import ALIAS
from recipes.project import Project
from recipes.record import RIVAL
from recipes.refining import MOST_BY_THE_CLOCK
from recipes.refining import STAGE as REFINING
from system.console import say
from system.errors import ConfigError
from system.files import write_text
from system.yaml_file import load_yaml
from training.record import read_finished, read_record
from utils.overrides import words_of
from utils.setups import SETUPS

SHORTEST = 0.001  # minutes of a stage where others took all: it stops after a step
COMPETES_FROM = 6.0  # minutes


def may_compete(features: str, minutes: float | None) -> bool:
    """Whether a network from scratch competes with features, by the name of their backbone."""
    return minutes is not None and minutes >= COMPETES_FROM and is_pretrained(features)


def take_minutes(project: Project, minutes: float | None) -> None:
    """Have a project that is there go on with the most minutes that this command or one before gave.

    Raises ConfigError where there is nothing that they are for.
    """
    before = project.facts["minutes"] or 0.0
    if minutes is None or minutes <= before:
        return
    may_train = has_rival(project, minutes)
    competes = may_train and not _has_trained(project.folder / RIVAL)
    if not (competes or _can_refine(project)):
        if may_train:
            say("the network from scratch has finished training, and nothing else trains: more minutes change nothing")
            return
        raise ConfigError(f"--minutes is for refining, and nothing in {project.folder} can be refined; leave it out")
    if project.request["num_clusters"] and _can_refine(project):
        if ended := _ended(project):
            if not competes:
                say(f"refining ended by itself before ({ended}), and more minutes change nothing")
                return
        else:
            _take_most_epochs(project)
        if REFINING not in project.stages:
            project.stages.append(REFINING)
    project.write(minutes=minutes, result=None)


def has_rival(project: Project, minutes: float | None) -> bool:
    """Whether a network from scratch competes with the features of a project that is there."""
    if project.shared or not project.request["num_clusters"] or project.stages[0] != "pretrained":
        return False
    return may_compete(project.load("pretrained").backbone, minutes)


def _has_trained(folder: Path) -> bool:
    """Whether the last stage of a clustering from scratch is finished."""
    return read_finished(folder / ALIAS / SETUPS[REFINING].stage) is not None


def _can_refine(project: Project) -> bool:
    if project.request["num_clusters"] is None:  # there are only features yet
        return not load_yaml(project.configs.path(project.stages[0])).get("features_file")
    return project.configs.path(REFINING).exists()


def _ended(project: Project) -> str:
    """Why refining ended before its epochs were over; empty where it did not."""
    ended: str = (read_finished(Path(project.load(REFINING).selflabel_dir)) or {}).get("ended", "")
    return ended


def _take_most_epochs(project: Project) -> None:
    """Have refining go on after the epochs that it takes by default, unless the user says how many they are."""
    path = project.configs.path(REFINING)
    words = words_of(SETUPS[REFINING].stage, project.request["words"])
    if "candidates" not in project.stages or any(word.startswith("epochs=") for word in words):
        return
    if load_yaml(path)["epochs"] < MOST_BY_THE_CLOCK:  # it may have been edited
        text = re.sub(r"(?m)^epochs: \d+$", f"epochs: {MOST_BY_THE_CLOCK}", path.read_text(encoding="utf-8"))
        write_text(path, text, listed=True)


def is_timed(project: Project, stage: str) -> bool:
    """Whether a stage ends with the minutes: refining, and all training of a network that competes."""
    return project.facts["minutes"] is not None and (stage == REFINING or (bool(project.rival) and stage in STAGES))


def time_words(project: Project, stage: str) -> list[str]:
    """The words for a stage that say how long it may take: what all others left of the minutes."""
    if not is_timed(project, stage):
        return []
    return [f"minutes={max(_minutes_left(project, stage), SHORTEST):.3f}"]


def comes_too_late(project: Project, stage: str) -> bool:
    """Whether a stage that ends with the minutes would begin when nothing is left of them."""
    if not is_timed(project, stage) or _minutes_left(project, stage) > 0:
        return False
    return not read_record(Path(project.load(stage)[f"{SETUPS[stage].stage}_dir"]))


def _minutes_left(project: Project, stage: str) -> float:
    minutes: float = project.facts["minutes"]
    return minutes - _seconds_of_others(project, stage) / 60


def seconds_left(project: Project) -> float:
    """Seconds that are left of the minutes of a project, infinite where none were given."""
    minutes: float | None = project.facts["minutes"]
    return math.inf if minutes is None else max(60 * minutes - _seconds_of_others(project), 0.0)


def seconds_to_train(project: Project) -> float:
    """Seconds that the minutes of a project and its rival leave for training, by the estimates of all other stages."""
    untimed = [
        (one, stage) for one in (project, project.rival) if one for stage in one.stages if not is_timed(one, stage)
    ]
    waiting = [one.facts["seconds"].get(stage, 0.0) for one, stage in untimed if not _is_finished(one, stage)]
    return max(seconds_left(project) - sum(waiting), 0.0)


def _is_finished(project: Project, stage: str) -> bool:
    return read_finished(Path(project.load(stage)[f"{SETUPS[stage].stage}_dir"])) is not None


def _seconds_of_others(project: Project, stage: str = "") -> float:
    """Seconds that all stages but this one took so far, the search for the number of clusters among them."""
    found = [(one, name) for one in (project, project.rival) if one for name in one.stages]
    found += [(project.shared, project.shared.stages[0])] if project.shared else []
    folders = [
        Path(one.load(name)[f"{SETUPS[name].stage}_dir"]) for one, name in found if (one, name) != (project, stage)
    ]
    searches = [one.facts["number"] for one in (project, project.rival) if one and one.facts["number"]]
    searched = sum(number.get("seconds", 0.0) for number in searches)
    return searched + sum(read_record(folder).get("seconds", 0.0) for folder in folders)
