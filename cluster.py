"""Group a folder of images, without labels, into clusters: one command from the folder to a page that shows them.

    python cluster.py photos --num_clusters 10
    python cluster.py photos --num_clusters 10 --quick                  # a first look, sooner
    python cluster.py photos --num_clusters 20 --output results/twenty seed=1
    python cluster.py photos --num_clusters 5,8,10-14                   # several, on the same features, to compare
    python cluster.py photos --num_clusters auto                        # or auto:5-20: looks for the number, too
    python cluster.py photos --num_clusters 10 --features dinov2
    python cluster.py photos --num_clusters 10 --features own.npy
    python cluster.py photos --num_clusters 10 --features scratch simclr.epochs=300
    python cluster.py photos --num_clusters 10 --leave_out auto         # images far from all others are in none
    python cluster.py photos --num_clusters 10 cluster_prior=power:0.5  # groups of unequal size
    python cluster.py photos --num_clusters 10 --minutes 20             # train and refine for 20 minutes
    python cluster.py photos --num_clusters 10 --link_to sorted         # links to the images, one folder per cluster

Takes features from pretrained networks, clusters them by several methods, refines one clustering where that takes
minutes at most (not with --quick; for several numbers only with --minutes), and keeps the one that label-free scores
prefer. With --minutes 6 or more, a network trained on these images alone, in DIR/scratch, competes with them, for the
number of clusters that DIR began with.
--features: auto (small gray images: scratch; else dinov2 where its weights are here or can be downloaded, else
embedded), embedded (installed with the project), dinov2, timm/NAME, scratch, which trains a network on these images
alone with simclr.py, scan.py and selflabel.py, or a file with features of your own: a .npy, a row per image in the
order of the paths in clusters.csv, or a .parquet with the columns path (relative to the folder, as there) and features,
embedding or vector. No image leaves this machine. The configs lie in DIR/configs, to go on with by hand; the result is
DIR/report.html, DIR/clusters.csv and DIR/model.pth.tar. The same command continues where it was interrupted; when all
is done it says where the results are. Of several numbers of clusters, each has its results in DIR/k05 and so on, and
DIR/index.html compares them; another number later reuses the features. `key=value` overrides change the configs, of one
stage when they begin with its name; overwrite=true starts again. If every image lies in a
sub-directory, the first level is taken for its class, which only scores the result.
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import system.waiting  # noqa: F401  # before anything that loads PyTorch
from recipes.auto import Auto, read_number, take_number, write_number_config, write_numbers
from recipes.configs import NUMBER
from recipes.features import SCRATCH, check_features, identity
from recipes.links import find_sorter, link
from recipes.look import Look
from recipes.opening import find_look, open_project
from recipes.project import Project
from recipes.record import INDEX, NUMBERS, RECORD
from recipes.rival import jobs_of, rival_of
from recipes.running import run_all
from recipes.several import name_of, project_of, recorded_number, write_index
from recipes.telling import report, report_shortly
from recipes.words import find_output, is_of_training, parse, take_overwrite
from system import owned
from system.console import say
from system.errors import ConfigError
from system.files import is_own
from utils import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is left of the clustering; returns the exit code."""
    args = parse(__doc__, argv)
    words, again = take_overwrite(args.overrides)
    root = Path(args.folder)
    output = find_output(root, args.output)
    if args.features == "auto" and any(map(is_of_training, words)):
        args.features = SCRATCH
    auto = args.num_clusters if isinstance(args.num_clusters, Auto) else None
    if auto and any(word.startswith("cluster_prior=[") for word in words):
        raise ConfigError(
            "cluster_prior has a share for each of a known number of clusters; with --num_clusters auto give "
            "cluster_prior=power:A"
        )
    numbers: list[int] = [] if auto else args.num_clusters
    request = {
        "folder": str(root.resolve()),
        "num_clusters": numbers[0] if len(numbers) == 1 else None,
        "quick": args.quick,
        "features": identity(args.features),
        "no_flip": args.no_flip,
        "flip": args.flip,
        "words": words,
    }
    project = Project(output, request)

    check_features(args.features)
    with project.hold():
        look = find_look(root, max(numbers, default=2))
        limits = auto.within(look.num_images) if auto else None
        began, number = recorded_number(project.folder)
        if began and not again:
            request["num_clusters"] = number
        found = None
        if limits:
            found = find_number(project, look, args, words, again, limits)
            if found is None:
                return 0
            numbers = args.num_clusters = [found["num_clusters"]]
            again = False
        if numbers == [request["num_clusters"]]:
            return cluster(project, look, args, words, again)
        return cluster_several(project, look, args, words, again, found)


def find_number(
    project: Project, look: Look, args: Any, words: list[str], again: bool, limits: tuple[int, int]
) -> dict[str, Any] | None:
    """Find the number of clusters with the features of a project, which then is of that number, unless it has one.

    Returns what was found, or None in a dry run, which only draws images or says what is known.
    """
    if args.link_to:  # what is in the way is said before anything runs
        before = {} if again else read_number(project, *limits)
        find_sorter(project, args, args.link_to, before["num_clusters"] if before else limits[1])
    owned.require_own(project.folder, [NUMBERS], "move it away")
    args.num_clusters = list(limits)
    new = project.request["num_clusters"] is None
    open_project(project, look, args, words, again, asked=new)
    write_number_config(project, *limits, words)
    known = read_number(project, *limits)
    if not known and not run_all([(project, [project.stages[0], NUMBER])], project, args):
        return None
    found = known or read_number(project, *limits)
    say(found["sentence"])
    if args.dry_run:
        return None
    write_numbers(project, found)  # what is known may be of another range than the page that is there
    for of_the_page in ("sheets", "in_use"):
        found.pop(of_the_page, None)
    number = found["num_clusters"]
    there = not again and (project_of(project, number, [number]).folder / RECORD).exists()
    if project.request["num_clusters"] is None and not there:
        take_number(project, look, number, args, words)
    if project.request["num_clusters"] == number:
        take_found(project, found)
    return found


def take_found(project: Project, found: dict[str, Any]) -> None:
    """Record how the number of clusters of a project was found; its report is to show that, also where it is there."""
    if project.facts["number"] != found:
        project.write(number=found, result=None)


def cluster(project: Project, look: Look, args: Any, words: list[str], again: bool) -> int:
    """Run what is left of a clustering whose folder is held; returns the exit code."""
    if args.link_to:  # what is in the way is said before anything runs
        find_sorter(project, args, args.link_to, project.request["num_clusters"])
    if open_project(project, look, args, words, again):
        with rival_of(project, look, args):
            if not run_all(jobs_of(project), project, args):
                return 0
        if is_own(project.folder / INDEX):
            write_index(project)
    else:
        say("this clustering is finished; overwrite=true starts it again")
    report(project)
    if args.link_to and not args.dry_run:
        link(project, args, args.link_to)
    return 0


def cluster_several(
    shared: Project, look: Look, args: Any, words: list[str], again: bool, found: dict[str, Any] | None = None
) -> int:
    """Run what is left of several numbers of clusters on the features of one project; returns the exit code.

    `found` is what was found where the one number was looked for.
    """
    numbers: list[int] = args.num_clusters
    projects = [project_of(shared, number, numbers) for number in numbers]
    folders = {}
    if args.link_to:
        names = [name_of(number, numbers) for number in numbers] if len(numbers) > 1 else [""]
        folders = {project: str(Path(args.link_to, name)) for project, name in zip(projects, names, strict=True)}
    for project, folder in folders.items():  # what is in the way is said before anything here is touched
        find_sorter(project, args, folder, project.request["num_clusters"])
    owned.require_own(shared.folder, [INDEX], "move it away")
    open_project(shared, look, args, words, again, asked=shared.request["num_clusters"] in numbers)
    with contextlib.ExitStack() as held:
        for project in projects:
            if project is not shared:
                held.enter_context(project.hold())
        for project in projects:
            if project is not shared:
                open_project(project, look, args, words, again)
                if found:
                    take_found(project, found)
        left = [project for project in projects if not project.finished]
        if left:
            first = [(shared, shared.stages[:1])]
            if shared in left:
                held.enter_context(rival_of(shared, look, args))
                first = jobs_of(shared)
            jobs = [*first, *((project, project.stages) for project in left if project is not shared)]
            if not run_all(jobs, shared, args):
                return 0
        else:
            say("these clusterings are finished; overwrite=true starts them again")
        write_index(shared)
        for project in projects:
            report_shortly(project)
        say(f"to compare them: {shared.folder / INDEX}")
        if not args.dry_run:
            for project, folder in folders.items():
                link(project, args, folder)
    return 0


def run() -> int:
    """The command that an installation gives."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(run())
