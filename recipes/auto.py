"""`--num_clusters auto`: the number of clusters is found with the features, before anything is clustered for good."""

import argparse
import base64
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from clustering.number import SMALLEST, check_range
from methods.independent import num_clustered
from methods.number import PICTURE
from recipes.choose import Recipe
from recipes.configs import ALIAS, NUMBER
from recipes.features import make_recipe
from recipes.look import Look
from recipes.minutes import may_compete
from recipes.numbers import parse_numbers
from recipes.project import Project
from recipes.record import NUMBERS
from recipes.refining import by_the_clock, stages_of
from recipes.several import OF_FEATURES, features_of, own_part, thumbnail_of
from report.compare import Clustering, write_comparison
from system.console import say
from system.files import is_own
from system.runtime import Runtime
from system.text import shown
from system.yaml_file import load_yaml
from training.record import read_record
from utils import clusters

SECONDS = (10.0, 0.01)  # a guess for the estimate: of some images, and of one more of those that are clustered


class Auto(NamedTuple):
    """The range in which a number of clusters is looked for; None: as far as the number of images allows."""

    low: int = SMALLEST
    high: int | None = None

    def within(self, num_images: int) -> tuple[int, int]:
        """The smallest and the largest number for so many images; raises ConfigError where the range does not fit."""
        return check_range(self.low, self.high, num_images, "--num_clusters auto:LO-HI")


def parse_number_words(text: str) -> list[int] | Auto:
    """`auto`, `auto:LO-HI`, or numbers as `parse_numbers` takes them; raises argparse.ArgumentTypeError."""
    word, colon, limits = text.partition(":")
    if word != "auto":
        return parse_numbers(text)
    if not colon:
        return Auto()
    ends = limits.split("-")
    if len(ends) != 2 or not all(end.isascii() and end.isdecimal() and len(end) < 10 for end in ends):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a range of numbers; give it as in auto:5-20")
    return Auto(int(ends[0]), int(ends[1]))


def write_number_config(project: Project, low: int, high: int, words: list[str]) -> None:
    """Write the config of the stage that looks for the number in a range, unless it is there.

    The stage starts from the features of a project.
    """
    base, more = SECONDS
    seconds = base + more * num_clustered(project.num_images, high)
    project.facts["seconds"] = {**project.facts["seconds"], NUMBER: seconds}
    if is_there(project, low, high):
        return
    first: dict[str, Any] = load_yaml(project.configs.path(project.stages[0]))
    content: dict[str, Any] = {"setup": NUMBER, "train_db_name": "folder", "run_name": f"{low}-{high}"}
    content |= {key: first[key] for key in OF_FEATURES if key in first}
    content["method_kwargs"] = {"low": low, "high": high}
    project.configs.write(Recipe(NUMBER, project.facts["reasons"], {NUMBER: content}), words)


def is_there(project: Project, low: int, high: int) -> bool:
    """Whether the config of the stage is there, and for this range."""
    path = project.configs.path(NUMBER)
    return path.exists() and load_yaml(path).get("run_name") == f"{low}-{high}"


def read_number(project: Project, low: int, high: int) -> dict[str, Any]:
    """What the stage found in a range, in which run and seconds; empty before it is finished."""
    if not is_there(project, low, high):
        return {}
    folder = Path(project.load(NUMBER).number_dir)
    found = clusters.read_result(folder)
    return found and {**found, "run": folder.name, "seconds": read_record(folder)["seconds"]}


def write_numbers(project: Project, found: Mapping[str, Any]) -> None:
    """Write numbers.html, which shows what every number that was tried makes of the images; earlier runs know less."""
    if "sheets" not in found:
        return
    tried = []
    for place, number in enumerate(found["curves"]["num_clusters"]):
        members = {i: (size, path) for i, (size, path) in enumerate(found["sheets"][str(number)])}
        scores = {key: found["curves"][key][place] for key in ("agreement", "silhouette", "generalisation")}
        in_use = found.get("in_use", {}).get(str(number))
        tried.append(Clustering(number, "", members, scores=scores, num_used=in_use))
    title = f"{project.num_images:,} images of {Path(project.request['folder']).name}: every number that was tried"
    sentence = found["sentence"][:1].upper() + found["sentence"][1:]
    lead = f"{sentence}. These are quick looks at images drawn at random; the number taken is clustered in full."
    write_comparison(project.home / NUMBERS, title, tried, thumbnail_of(project), lead)
    say(f"every number that was tried: {project.home / NUMBERS}")


def take_number(project: Project, look: Look, number: int, args: argparse.Namespace, words: list[str]) -> None:
    """Make a project that has only features one of a number of clusters, as if that number had been asked for."""
    first = project.stages[0]
    device = Runtime.of(project.load(first)).device.type
    features = features_of(project)
    whole = make_recipe(look, number, device, args.quick, features, look.may_flip(args.flip, args.no_flip))
    if project.facts["minutes"]:
        whole = by_the_clock(whole, may_compete(features.name, project.facts["minutes"]))
    recipe = own_part(replace(whole, reasons=project.facts["reasons"]), project)
    project.request["num_clusters"] = number
    project.configs.write(recipe, words)
    project.write(stages=[first, *stages_of(recipe)])


def for_page(project: Project) -> dict[str, str] | None:
    """What its page says of a project's number: a sentence, the curves, the page of all that were tried.

    None where the number was given.
    """
    found = project.facts["number"]
    if not found or found["num_clusters"] != project.request["num_clusters"]:
        return None
    picture = project.home / ALIAS / NUMBER / found.get("run", "") / PICTURE
    data = base64.b64encode(picture.read_bytes()).decode() if picture.exists() else ""
    tried = project.home / NUMBERS
    link = os.path.relpath(tried, project.folder) if is_own(tried) else ""
    return {"sentence": found["sentence"], "picture": data, "link": link}
