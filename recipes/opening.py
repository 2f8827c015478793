"""From a folder of images and what is asked to a project with configs, or to one that is there already."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.files.listing import NoImagesError
from models.pretrained import is_pretrained
from recipes.choose import Recipe
from recipes.configs import check_configs
from recipes.estimate import estimate
from recipes.features import Features, choose_features, make_recipe, require_weights
from recipes.leave_out import take_leave_out
from recipes.look import Look, look_at
from recipes.minutes import may_compete, take_minutes
from recipes.project import Project
from recipes.record import RECORD, RIVAL, ProjectRecord
from recipes.refining import by_the_clock, stages_of
from recipes.several import features_of, own_part, shared_part
from system.bounded import read_json
from system.errors import ConfigError, UserError
from system.files import is_own, remove
from system.runtime import Runtime
from utils.overrides import apply_overrides, split_stage
from utils.readings import note_look


def find_look(root: Path, num_clusters: int) -> Look:
    """What the images are like; raises UserError, which says what to do when they were moved."""
    try:
        return look_at(root, num_clusters)
    except NoImagesError as error:
        raise UserError(
            f"{error}; where images were moved, the clustering continues with their new place and the same --output"
        ) from error


def with_weights(features: Features, words: list[str]) -> Features:
    """Features whose network has the weights of the last word `weights=FILE`, if there is one.

    Raises ConfigError where there is no pretrained network that they could be of.
    """
    own = [word for _, word in map(split_stage, words) if word.partition("=")[0] == "weights"]
    weights = apply_overrides({}, own).get("weights")
    if weights and not is_pretrained(features.name):
        raise ConfigError(
            f"{own[-1]} is for a pretrained network, and these features are {features.name}; leave it out"
        )
    return replace(features, weights=weights)


def open_project(project: Project, look: Look, args: Any, words: list[str], again: bool, asked: bool = True) -> bool:
    """Find or choose the configs; returns whether anything is left to do.

    --minutes and --leave_out are for this project where it is `asked` for, and not only its features. What does not fit
    is refused before anything here is touched.
    """
    minutes, share = (args.minutes, args.leave_out) if asked else (None, None)
    project.configs.offline = args.offline
    if not again and project.open(look.files):
        take_minutes(project, None if args.dry_run else minutes)
        take_leave_out(project, None if args.dry_run else share)
        return not project.finished
    if again and args.dry_run and project.has_run and (project.folder / RECORD).exists():
        raise ConfigError(
            f"a dry run starts nothing again, and {project.folder} is there; leave out overwrite=true, or give --output"
        )
    device = next((word.partition("=")[2] for word in words if word.startswith("device=")), "auto")
    runtime = Runtime.start(device)
    if project.shared:
        features, seconds = features_of(project.shared), project.shared.facts["seconds"]
    else:
        features = choose_features(args.features, look, args.quick, args.offline)
        features = with_weights(features, words)
        require_weights(features, args.offline)
    number = project.request["num_clusters"]
    most, flip = max(args.num_clusters), look.may_flip(args.flip, args.no_flip)
    recipe = make_recipe(look, number or most, runtime.device.type, args.quick, features, flip)
    if args.minutes:
        competes = asked and not project.shared and may_compete(features.name, args.minutes)
        recipe = by_the_clock(recipe, competes)
    stages = stages_of(recipe, several=(len(args.num_clusters) > 1 or bool(project.shared)) and not args.minutes)
    if project.shared:
        recipe = own_part(recipe, project)
    check_configs(recipe, words, runtime, project.shared.stages[:1] if project.shared else [])
    if not project.shared:
        seconds = estimate(recipe, look, runtime)
    if not number:
        recipe = shared_part(recipe)
    stages = [stage for stage in stages if stage in recipe.configs]
    facts = {"seconds": seconds, "stages": stages, "minutes": minutes, "leave_out": share or None}
    start_project(project, recipe, words, look, runtime, again, **facts)
    return True


def start_project(
    project: Project, recipe: Recipe, words: list[str], look: Look, runtime: Runtime, again: bool, **facts: Any
) -> None:
    """Write what a project begins with: the configs of its recipe, what its images are like, and cluster.json.

    `again` removes what this program wrote there before.
    """
    project.begin(look.files, again)
    if again:
        _forget_rival(project, look)
    project.configs.write_env(runtime)
    project.configs.write(recipe, words)
    if not project.shared:
        note_look(project.folder, look.files.root, look.values, look.found)
    project.write(recipe=recipe.name, reasons=recipe.reasons, result=None, **facts)


def _forget_rival(project: Project, look: Look) -> None:
    """Remove what competed with a project's features, and no other clustering that somebody made in its folder."""
    folder = project.folder / RIVAL
    record = None
    with contextlib.suppress(UserError):  # damaged, so nobody's to remove
        record = read_json(folder / RECORD, ProjectRecord) if is_own(folder / RECORD) else None
    if record and record.get("competes"):
        rival = Project(folder, record["request"])
        with rival.hold():
            rival.begin(look.files, again=True)
            remove(folder / RECORD)
