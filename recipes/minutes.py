"""What `--minutes` means: for how long the clusters of a project are refined, all stages and calls together."""

import re
from pathlib import Path
from typing import Any

from recipes.project import Project
from recipes.refining import MOST_BY_THE_CLOCK
from recipes.refining import STAGE as REFINING
from system.console import say
from system.errors import ConfigError
from system.files import write_text
from system.yaml_file import load_yaml
from training.folder import read_finished, read_record
from utils.overrides import words_of
from utils.schema import SETUPS

SHORTEST = 0.001  # minutes of refining where the stages before it took all: it stops after a step


def take_minutes(project: Project, minutes: float | None) -> None:
    """Have a project that is there go on with the most minutes that this command or one before gave.

    Raises ConfigError where there is nothing to refine.
    """
    before = project.facts["minutes"] or 0.0
    if minutes is None or minutes <= before:
        return
    if not _can_refine(project):
        raise ConfigError(f"--minutes is for refining, and nothing in {project.folder} can be refined; leave it out")
    if project.request["num_clusters"] and (ended := _ended(project)):
        say(f"refining ended by itself before ({ended}), and more minutes change nothing")
        return
    if project.request["num_clusters"] and REFINING not in project.stages:
        project.stages.append(REFINING)
    _take_most_epochs(project)
    project.write(minutes=minutes, result=None)


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


def time_words(project: Project, stage: str) -> list[str]:
    """The words for a stage that say how long refining may take: what the stages before it left of the minutes."""
    minutes: float | None = project.facts["minutes"]
    if minutes is None or stage != REFINING:
        return []
    return [f"minutes={max(minutes - _seconds_before(project) / 60, SHORTEST):.3f}"]


def _seconds_before(project: Project) -> float:
    """Seconds that all stages but refining took, the search for the number of clusters among them."""
    before = [(project, name) for name in project.stages if name != REFINING]
    before += [(project.shared, project.shared.stages[0])] if project.shared else []
    number: dict[str, Any] = project.facts["number"] or {}
    folders = [Path(one.load(name)[f"{SETUPS[name].stage}_dir"]) for one, name in before]
    return number.get("seconds", 0.0) + sum(read_record(folder).get("seconds", 0.0) for folder in folders)
