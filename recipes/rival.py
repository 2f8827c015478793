"""A network trained on a folder's images alone, which competes with pretrained features where minutes are given.

It is a clustering of its own, in OUTPUT/scratch. How long it trains follows from the minutes that were given first; the
clock only ends it.
"""

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import replace

from recipes.choose import SCHEDULES, STAGES, Recipe
from recipes.estimate import estimate
from recipes.features import SCRATCH, Features, make_recipe
from recipes.look import Look
from recipes.minutes import has_rival
from recipes.opening import start_project
from recipes.project import Project
from system.errors import UserError
from system.runtime import Runtime

FOLDER = "scratch"
SHORT = 4.5  # minutes for which the short schedule is: three of training on two cores, the others for the rest
PASSED_ON = ("seed=", "device=", "precision=", "deterministic=")  # of the words, what is not of pretrained features


@contextlib.contextmanager
def rival_of(project: Project, look: Look, args: argparse.Namespace, again: bool) -> Iterator[Project | None]:
    """The clustering from scratch that competes with a project, its folder held; None where none does.

    `again` starts it again, as does a command that was another one when it began.
    """
    if not has_rival(project, project.facts["minutes"]):
        yield None
        return
    words = [word for word in project.request["words"] if word.startswith(PASSED_ON)]
    rival = Project(project.folder / FOLDER, {**project.request, "features": SCRATCH, "words": words})
    rival.configs.offline = project.configs.offline
    with rival.hold():
        if again or not _is_there(rival, look):
            _start(rival, project, words, look, args)
        rival.facts["minutes"] = project.facts["minutes"]
        rival.rival, project.rival = project, rival
        yield rival


def _is_there(rival: Project, look: Look) -> bool:
    with contextlib.suppress(UserError):  # it began with what the project was asked before it was started again
        return rival.open(look.files)
    return False


def _start(rival: Project, project: Project, words: list[str], look: Look, args: argparse.Namespace) -> None:
    runtime = Runtime.of(project.load(project.stages[0]))
    features = Features(SCRATCH, "to compete with pretrained features")
    flip = look.may_flip(args.flip, args.no_flip)
    recipe = make_recipe(look, rival.request["num_clusters"], runtime.device.type, True, features, flip)
    recipe = lengthen(recipe, project.facts["minutes"] / SHORT)
    seconds = estimate(recipe, look, runtime)
    start_project(rival, recipe, words, look, runtime, again=True, seconds=seconds, stages=list(STAGES))


def lengthen(recipe: Recipe, factor: float) -> Recipe:
    """A recipe from scratch with more epochs, at most those of a recipe for GPUs."""
    configs = {}
    for stage, config in recipe.configs.items():
        most = max(config["epochs"], SCHEDULES["gpu"][stage].highest)
        configs[stage] = {**config, "epochs": min(round(config["epochs"] * factor), most)}
    return replace(recipe, configs=configs)


def jobs_of(project: Project) -> list[tuple[Project, list[str]]]:
    """The stages of a project that has a number of clusters, and before the last those of its rival."""
    if not project.rival:
        return [(project, project.stages)]
    *first, last = project.stages
    return [(project, first), (project.rival, project.rival.stages), (project, [last])]
