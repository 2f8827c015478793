"""A network trained on a folder's images alone, which competes with pretrained features where minutes are given.

It is a clustering of its own, in OUTPUT/scratch. How long it trains follows from the minutes that were given first, by
halves less where that does not fit into them on this machine; the clock then only ends it.
"""

import argparse
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from recipes.choose import SCHEDULES, STAGES, Recipe
from recipes.estimate import estimate
from recipes.features import SCRATCH, Features, make_recipe
from recipes.look import Look
from recipes.minutes import has_rival, seconds_to_train
from recipes.opening import start_project
from recipes.project import Project
from recipes.record import RECORD, RIVAL
from system.console import warn
from system.errors import UserError
from system.runtime import Runtime

SHARE = 0.8  # of the minutes, at most
SHORTEST = 0.25  # of the short schedule; less is not worth it
SHORT = 4.5  # minutes: on two cores the short schedule takes three, and all that is not training half as long
PASSED_ON = ("seed=", "device=", "precision=", "deterministic=", "cluster_prior=")
"""The words that are not of pretrained features alone."""


@contextlib.contextmanager
def rival_of(project: Project, look: Look, args: argparse.Namespace) -> Iterator[None]:
    """Let the clustering from scratch that competes with a project be its rival, its folder held, if there is one.

    A command that gives minutes begins it. Another clustering that somebody made in its folder stays, and competes in
    nothing.
    """
    rival = Project(project.folder / RIVAL, request_of(project))
    there = (rival.folder / RECORD).exists()
    if not has_rival(project, project.facts["minutes"]) or not (there or args.minutes):
        yield
        return
    rival.configs.offline = project.configs.offline
    rival.rival = project
    with rival.hold():
        try:
            if not rival.open(look.files):
                _start(rival, project, look, args)
            rival.facts["minutes"] = project.facts["minutes"]
            project.rival = rival
        except UserError as error:
            warn(f"no network from scratch competes: {error}")
        yield


def request_of(project: Project) -> dict[str, Any]:
    """What a rival is asked for: what its project is, but for the features and what is said of them."""
    words = [word for word in project.request["words"] if word.startswith(PASSED_ON)]
    return {**project.request, "features": SCRATCH, "words": words}


def _start(rival: Project, project: Project, look: Look, args: argparse.Namespace) -> None:
    runtime = Runtime.of(project.load(project.stages[0]))
    features = Features(SCRATCH, "to compete with pretrained features")
    flip = look.may_flip(args.flip, args.no_flip)
    recipe = make_recipe(look, rival.request["num_clusters"], runtime.device.type, True, features, flip)
    seconds = estimate(recipe, look, runtime)
    minutes = project.facts["minutes"]
    recipe = fit(recipe, seconds, minutes, min(60 * SHARE * minutes, seconds_to_train(project)))
    facts = {"seconds": seconds, "stages": list(STAGES), "competes": True}
    start_project(rival, recipe, rival.request["words"], look, runtime, again=False, **facts)


def fit(recipe: Recipe, seconds: Mapping[str, float], minutes: float, room: float) -> Recipe:
    """The recipe with epochs for so many minutes, on a machine whose epochs take `seconds` a stage and have a `room`.

    A slower machine than two cores of 2025 has half the epochs, or a quarter, and so on: a measurement decides no more
    than that, and only because minutes were asked for.
    """
    factor = minutes / SHORT
    while True:
        found = lengthen(recipe, factor)
        total = sum(config["epochs"] * seconds[stage] for stage, config in found.configs.items())
        if total <= room or factor < SHORTEST:
            return found
        factor /= 2


def lengthen(recipe: Recipe, factor: float) -> Recipe:
    """A recipe from scratch with more epochs or fewer, at most those of a recipe for GPUs."""
    configs = {}
    for stage, config in recipe.configs.items():
        most = max(config["epochs"], SCHEDULES["gpu"][stage].highest)
        configs[stage] = {**config, "epochs": min(max(round(config["epochs"] * factor), 1), most)}
    return replace(recipe, configs=configs)


def jobs_of(project: Project) -> list[tuple[Project, list[str]]]:
    """The stages of a project that has a number of clusters, and before the last those of its rival."""
    if not project.rival:
        return [(project, project.stages)]
    *first, last = project.stages
    return [(project, first), (project.rival, project.rival.stages), (project, [last])]
