"""Several numbers of clusters from one set of features: each has a folder of its own in the output folder.

`OUTPUT/k05` is a whole project of its own but for the features, which are those of `OUTPUT`; its runs are in
`OUTPUT/runs`, under its name. An output folder that began with one number keeps that number's results in itself.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from clustering.prediction import OTHER
from data.files.decode import read_image
from data.files.formats import BadImageError
from data.files.values import Values
from recipes.choose import Recipe
from recipes.configs import ALIAS
from recipes.features import SCRATCH, Features
from recipes.project import Project
from recipes.record import INDEX, RECORD, ProjectRecord, asked_before, has_run
from report.compare import SIDE, Clustering, write_comparison
from report.edits import read_clusters
from system.bounded import read_json
from system.errors import UserError
from system.yaml_file import load_yaml
from utils.readings import recorded_values

DIGITS = 2  # of a folder's name, at least
FOLDER = re.compile(r"k0*([1-9]\d*)")
OF_FEATURES = ("train_db_kwargs", "backbone", "stem", "width", "transformation_kwargs", "precision")
"""Keys by which a stage fits the features, whatever another device would be given."""


def recorded_number(output: Path) -> tuple[bool, int | None]:
    """Whether a clustering ran in a folder, and the number of clusters whose results are in the folder itself."""
    try:
        request = read_json(output / RECORD, ProjectRecord)["request"]
    except (FileNotFoundError, UserError):  # what is wrong with it is said when it is opened
        return False, None
    return has_run(output), request.get("num_clusters")


def project_of(shared: Project, number: int, numbers: Collection[int]) -> Project:
    """The project of one number of clusters: `shared` itself, or one with the features of `shared`."""
    if shared.request["num_clusters"] == number:
        return shared
    there = (path.name for path in shared.folder.glob(f"k*{number}"))
    name = next((name for name in there if _number(name) == number), name_of(number, numbers))
    return Project(shared.folder / name, {**shared.request, "num_clusters": number}, shared)


def name_of(number: int, numbers: Collection[int]) -> str:
    """The name of a number's folder, among others: all sort as numbers do."""
    return f"k{number:0{max(DIGITS, len(str(max(numbers))))}}"


def projects_in(shared: Project) -> Iterator[Project]:
    """The project of every number of clusters that has a folder in `shared`, itself among them, ascending."""
    numbers = {_number(path.name) for path in shared.folder.glob("k*") if (path / RECORD).is_file()}
    numbers.add(shared.request["num_clusters"])
    found = sorted(number for number in numbers if number)
    return (project_of(shared, number, found) for number in found)


def _number(name: str) -> int | None:
    found = FOLDER.fullmatch(name)
    return int(found[1]) if found else None


def shared_part(recipe: Recipe) -> Recipe:
    """What all numbers of clusters share: the stage that makes features."""
    first, config = next(iter(recipe.configs.items()))
    shared = {key: value for key, value in config.items() if key != "num_classes"}
    return replace(recipe, configs={first: shared})


def own_part(recipe: Recipe, project: Project) -> Recipe:
    """What a number of clusters has of its own: the stages after the features of the project's `shared`."""
    first, *others = recipe.configs
    content: dict[str, Any] = load_yaml((project.shared or project).configs.path(first))
    fitting = {key: content[key] for key in OF_FEATURES if key in content}
    root = recipe.configs[first]["train_db_kwargs"]["root"]  # where the images are now
    fitting["train_db_kwargs"] = {**fitting["train_db_kwargs"], "root": root}
    return replace(recipe, configs={stage: {**recipe.configs[stage], **fitting} for stage in others})


def features_of(shared: Project) -> Features:
    """The features that a project has, for a recipe."""
    first = shared.stages[0]
    p = shared.load(first)
    if first == "simclr":
        return Features(SCRATCH, "as those of the other numbers of clusters")
    file = Path(p.features_file) if p.features_file else None
    return Features(p.backbone, "those of the other numbers of clusters", file)


def write_index(shared: Project) -> None:
    """Write index.html, which compares the finished clusterings of the features of `shared`."""
    found = [clustering for project in projects_in(shared) if (clustering := _clustering(project)) is not None]
    *others, last = [str(one.number) for one in found]
    numbers = f"{', '.join(others)} and {last}" if others else last
    title = f"{shared.num_images:,} images of {Path(shared.request['folder']).name} in {numbers} clusters"
    write_comparison(shared.folder / INDEX, title, found, thumbnail_of(shared))


def thumbnail_of(project: Project) -> Callable[[str], Any]:
    """What gives the thumbnail of an image by its path in the folder of images; raises UserError where it is gone."""
    root, values = project.request["folder"], recorded_values(project.home / ALIAS / "pretext") or Values()

    def thumbnail(path: str) -> Any:
        try:
            return read_image(f"{root}/{path}", SIDE, values)[0]
        except BadImageError as error:
            raise UserError(str(error)) from error

    return thumbnail


def _clustering(project: Project) -> Clustering | None:
    """What the page shows of a project; None where it is not finished, or of other images or another request."""
    record = read_json(project.folder / RECORD, ProjectRecord)
    result, table = record["result"], project.folder / "clusters.csv"
    shared = project.shared or project
    requests = project.request, asked_before(record, project.request)
    asked, told = ({**request, "folder": None} for request in requests)  # it may have moved
    same = record["images"]["fingerprint"] == shared.fingerprint and asked == told
    if not (result and table.exists() and same):
        return None
    members: dict[int, tuple[int, str]] = {}
    best: dict[int, float] = {}
    left_out = 0
    found = read_clusters(table)
    for image, cluster, confidence in zip(found.paths, found.clusters, map(float, found.confidence), strict=True):
        if cluster == OTHER:
            left_out += 1
            continue
        size, path = members.get(cluster, (0, image))
        if confidence > best.get(cluster, -1.0):
            best[cluster], path = confidence, image
        members[cluster] = size + 1, path
    verdict = result.get("verdict") or {"candidates": [], "reason": "", "trust": ""}
    chosen = verdict["reason"].partition(":")[0]
    scores = next((row for row in verdict["candidates"] if row["name"] == chosen), None)
    link = os.path.relpath(project.folder / "report.html", shared.folder)
    acc = result["scores"].get("acc")
    return Clustering(project.request["num_clusters"], link, members, chosen, verdict["trust"], scores, acc, left_out)
