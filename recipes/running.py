"""The stages of projects, one after another, and their results as files."""

import math
from pathlib import Path
from typing import Any

from data.folder import find_images
from recipes.auto import for_page
from recipes.deliver import Delivery, deliver, verdict_of
from recipes.display import Display, Work, duration, seconds_of
from recipes.finalists import has_models
from recipes.minutes import comes_too_late, is_timed, seconds_left, seconds_to_train, time_words
from recipes.preview import draw_images
from recipes.project import Project
from recipes.record import LOG, PICTURE, UNREADABLE
from recipes.refining import STAGE as REFINING
from report.edits import read_clusters
from report.outputs import write_clusters
from report.round import keep_round, read_round
from system.console import warn
from system.errors import NothingConfidentError, TimeOverError, UserError, out_of_memory
from system.files import is_own, write_text
from system.runtime import Runtime
from system.text import escape
from training.folder import MODEL
from training.record import read_record
from utils import clusters, saved
from utils.setups import SETUPS
from utils.stage import main_of

TITLES = {
    "pretrained": "computing features",
    "candidates": "clustering by every method",
    "number": "looking for the number of clusters",
    "simclr": "learning features",
    "scan": "finding clusters",
    "selflabel": "refining clusters",
}


def run_all(jobs: list[tuple[Project, list[str]]], first: Project, args: Any) -> bool:
    """Run what is left of some stages of projects, the `first` one around the others, and write their results.

    Returns False in a dry run, which only draws images.
    """
    works = [make_work(project, stage) for project, stages in jobs for stage in stages]
    numbers = {project.request["num_clusters"] for project, _ in jobs}
    most = seconds_left(first) if len(numbers) == 1 else math.inf  # each number has minutes of its own
    display = Display(works, first.folder / LOG, most)
    with display:
        say_plan(jobs, display)
        if args.dry_run:
            draw_images(first.folder / PICTURE, first.load(first.stages[0]), Path(first.request["folder"]))
            display.line(f"images as the network will see them: {first.folder / PICTURE}")
            return False
        num_done = 0
        for project, stages in jobs:
            run_stages(project, stages, display, num_done)
            num_done += len(stages)
            is_whole = stages[-1] == project.stages[-1] and not is_rival(project)
            if is_whole and project.request["num_clusters"]:
                with display.stage("writing the report"):
                    found, scores = show(project)
                project.write(result={"model": MODEL, "scores": scores, "verdict": verdict_of(found)})
    return True


def is_rival(project: Project) -> bool:
    """Whether a project is from scratch, beside one of pretrained features."""
    return project.rival is not None and "candidates" not in project.stages


def make_work(project: Project, stage: str) -> Work:
    """What a stage has to do, for the display."""
    p = project.load(stage)
    folder = Path(p[f"{SETUPS[stage].stage}_dir"])
    number = f" (K = {project.request['num_clusters']})" if project.shared else ""
    seconds = project.facts["seconds"].get(stage, 0.0)
    return Work(title_of(project, stage) + number, folder, p.epochs or 1, seconds, is_timed(project, stage))


def title_of(project: Project, stage: str) -> str:
    """What a stage of a project does, in words."""
    return TITLES[stage] + (" from scratch" if is_rival(project) else "")


def say_plan(jobs: list[tuple[Project, list[str]]], display: Display) -> None:
    """Say which recipe runs, where its configs are, and about how long it takes."""
    project = jobs[0][0]
    for reason in project.facts["reasons"]:
        display.line(reason)
    works = display.works
    trained = {title_of(project, stage): project.load(stage).epochs for project, stages in jobs for stage in stages}
    epochs = ", ".join(title + (f" {num} epochs" if num else "") for title, num in trained.items())
    num = len({project.request["num_clusters"] for project, stages in jobs if stages == project.stages} - {None})
    each = f", for {num} numbers of clusters" if num > 1 else ""
    left = max(min(seconds_of(works), display.most), seconds_of(work for work in works if not work.timed))
    display.line(f"{epochs}{each}; about {duration(left)} left")
    display.line(f"configs: {project.configs.folder}; what the stages say: {display.log_path}")


def run_stages(project: Project, stages: list[str], display: Display, num_done: int) -> None:
    """Run what is left of the stages of a project, before which the display has `num_done` others."""
    root, total = Path(project.request["folder"]), len(display.works)
    works = display.works[num_done : num_done + len(stages)]
    waits = is_rival(project) and not has_models(project)
    if waits and (seconds := seconds_of(works)) > (left := seconds_to_train(project)):
        display.end(works)
        takes = f"it takes about {duration(seconds)}, and about {duration(left)} of --minutes are left"
        warn(f"no network from scratch competes: {takes}")
        return
    for number, (stage, work) in enumerate(zip(stages, works, strict=True), num_done + 1):
        with display.stage(f"{number}/{total} {work.title}"):
            files = find_images(root, "images", None, quiet=True)
            project.check_unchanged(files)
            ended = run_stage(project, stage, work)
        if ended:
            display.end(works)
            if is_rival(project):
                competes = "the result so far competes" if has_models(project) else "it found no clusters yet"
                warn(f"training from scratch ended early, and {competes}: {ended}")
            else:
                warn(f"refining ended early, and the result so far competes: {ended}")
            return
        seconds = read_record(work.folder).get("seconds", 0.0)
        display.line(f"{number}/{total} {work.title}: done, {duration(seconds)}")


def run_stage(project: Project, stage: str, work: Work) -> str:
    """Run a stage; returns why it ended early, where another model may be kept, empty where it did not."""
    has_clusters = is_rival(project) or (stage == REFINING and "candidates" in project.stages)
    if has_clusters and comes_too_late(project, stage):
        return "it did not begin, as no time is left of --minutes"
    try:
        main_of(stage)([*project.configs.arguments(stage), *time_words(project, stage)])
    except UserError as error:
        message = in_context(str(error), work.folder)
        if not has_clusters and not isinstance(error, NothingConfidentError | TimeOverError):
            raise type(error)(message) from error
        return message
    except (RuntimeError, MemoryError) as error:
        full = out_of_memory(error)
        if not has_clusters or not full:
            raise
        return f"{full}; with --minutes, or more of them, it is tried again"
    return ""


def in_context(message: str, folder: Path) -> str:
    """A stage's error, where it proposes what would do something else here than in the stage's own script."""
    if "overwrite=true" not in message and "run_name" not in message:
        return message
    return (
        f"{message} (in the words of the stage script, for its run {folder}; cluster.py takes other words with another "
        "--output, and with overwrite=true it would remove all stages)"
    )


def warn_of_labels(output: Path) -> None:
    """Say so where the labels that label.py wrote are of other clusters than clusters.csv now has."""
    labels = output / saved.LABELS
    if earlier := saved.find_earlier_labels(output):
        warn(f"labels of an earlier clustering are kept; python label.py {output} {earlier} takes them over")
    if not is_own(labels):
        return
    try:
        fits = read_clusters(labels).fingerprint == read_clusters(output / "clusters.csv").fingerprint
    except UserError:  # somebody wrote in it
        fits = False
    if not fits:
        warn(
            f"the labels in {output} were made of other clusters; carry them over to these, and to report.html: "
            f"python label.py {output} {labels}"
        )


def show(project: Project) -> tuple[Delivery, dict[str, Any]]:
    """Hand out the best model, write report.html and clusters.csv; returns it, and the scores by labels, if any."""
    found = deliver(project, Runtime.of(project.load(project.stages[-1])))
    p, dataset = found.project.load(found.stage), found.dataset
    scores = clusters.score_prediction(found.prediction, dataset)
    write_clusters(project.folder / "clusters.csv", dataset.paths, found.prediction)
    warn_of_labels(project.folder)
    left_out = sorted(
        set(find_images(Path(project.request["folder"]), "images", None, quiet=True).paths) - set(dataset.paths)
    )
    page, verdict = project.folder / "report.html", {**verdict_of(found), "number": for_page(project)}
    labels = read_round(page)
    clusters.write_report(page, p, found.path, dataset, found.prediction, scores, verdict, left_out)
    keep_round(page, labels)
    lines = "".join(f"{escape(name)}\n" for name in left_out)  # one line a name
    write_text(project.folder / UNREADABLE, lines, listed=True)
    return found, {key: value for key, value in scores.items() if key not in ("confusion", "matching")}
