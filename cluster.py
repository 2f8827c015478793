"""Group a folder of images, without labels, into clusters: one command from the folder to a page that shows them.

    python cluster.py photos --num_clusters 10
    python cluster.py photos --num_clusters 10 --quick                  # a smaller network: a first look
    python cluster.py photos --num_clusters 20 --output results/twenty seed=1
    python cluster.py photos --num_clusters 5,8,10-14                   # several, on the same features, to compare
    python cluster.py photos --num_clusters auto                        # or auto:5-20: looks for the number, too
    python cluster.py photos --num_clusters 10 --features dinov2
    python cluster.py photos --num_clusters 10 --features own.npy
    python cluster.py photos --num_clusters 10 --features scratch simclr.epochs=300
    python cluster.py photos --num_clusters 10 --minutes 20             # refine until 20 minutes are over
    python cluster.py photos --num_clusters 10 --link_to sorted         # links to the images, one folder a cluster

Takes features from a pretrained network, clusters them by several methods, and hands out the clustering that
label-free scores prefer. --features: auto (small gray images: scratch; else dinov2 where its weights are here or can be
downloaded, else embedded), embedded (installed with the project), dinov2, timm/NAME, scratch, which trains a network
on these images alone with simclr.py, scan.py and selflabel.py, or a file with features of your own: a .npy with a row
an image in the order of the paths in clusters.csv, or a .parquet with the columns path (relative to the folder, as
there) and features, embedding or vector. No image leaves this machine. The configs lie in
DIR/configs, to go on with by hand; the result is DIR/report.html, DIR/clusters.csv and DIR/model.pth.tar. The same
command continues where it was interrupted; when all is done it says where the results are. Of several numbers of
clusters, each has its results in DIR/k05 and so on, and DIR/index.html compares them; another number later takes the
features that are there. `key=value` words change the
configs, of one stage when they begin with its name; overwrite=true starts again. If every image lies in a
sub-directory, the first level is taken for its class, which only scores the result.
"""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.files.listing import NoImagesError
from data.folder import find_images
from recipes.auto import NUMBER, Auto, for_page, parse_number_words, read_number, take_number, write_number_config
from recipes.deliver import Delivery, deliver, verdict_of
from recipes.display import Display, Work, duration
from recipes.estimate import estimate
from recipes.features import SCRATCH, choose_features, identity, make_recipe, require_weights
from recipes.links import link_images, make_sorter
from recipes.look import Look, look_at
from recipes.preview import draw_images
from recipes.project import INDEX, LOG, PICTURE, RECORD, Project
from recipes.refining import stages_of
from recipes.several import features_of, name_of, own_part, project_of, recorded_number, shared_part, write_index
from report.outputs import Sorter, write_clusters
from system import owned
from system.console import say, warn
from system.errors import ConfigError, NothingConfidentError, TimeOverError, UserError
from system.files import write_text
from system.paths import expand_path
from system.runtime import Runtime
from system.text import escape
from training.folder import MODEL, read_record
from utils import cli, clusters
from utils.common_config import get_val_dataset
from utils.overrides import apply_overrides, split_stage
from utils.readings import note_look
from utils.schema import SETUPS
from utils.stage import main_of

TITLES = {
    "pretrained": "computing features",
    "candidates": "clustering by every method",
    "number": "looking for the number of clusters",
    "simclr": "learning features",
    "scan": "finding clusters",
    "selflabel": "refining clusters",
}
TRAINING = ("epochs", "batch_size", "width", "stem", "num_neighbors", "confidence_threshold")
UNREADABLE = "unreadable.txt"
FORBIDDEN = ("root_dir", "db_alias", "num_classes", "setup", "run_name", "pretext_run", "scan_run", "train_db_name")


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is left of the clustering; returns the exit code."""
    parser = cli.base_parser(__doc__, folder="the directory of images, read recursively")
    parser.add_argument(
        "--num_clusters",
        type=parse_number_words,
        required=True,
        metavar="K",
        help="how many groups to find; 5,8,10-14; or auto or auto:LO-HI, which looks for the number",
    )
    parser.add_argument(
        "--output", type=cli.path, metavar="DIR", help="where everything goes (default: results/NAME OF THE FOLDER)"
    )
    parser.add_argument("--quick", action="store_true", help="a smaller network, from scratch with few epochs")
    parser.add_argument(
        "--features",
        default="auto",
        metavar="NAME",
        help="auto, embedded, dinov2, timm/NAME, scratch, or a .npy or .parquet file (default: auto)",
    )
    parser.add_argument(
        "--link_to", type=cli.path, metavar="DIR", help="also sort the images into one folder a cluster, by links"
    )
    parser.add_argument(
        "--minutes",
        type=cli.minutes,
        metavar="M",
        help="refine the clusters until M minutes of computing are over; more minutes later go on from there",
    )
    parser.add_argument("--no_flip", action="store_true", help="never mirror images: for signs, text, left and right")
    parser.add_argument("--offline", action="store_true", help="download nothing")
    parser.add_argument("--dry_run", action="store_true", help="write configs and images.png, run nothing")
    args = parse(parser, argv)
    words, again = take_overwrite(args.overrides)
    root = Path(args.folder)
    output = find_output(root, args.output)
    if args.features == "auto" and any(map(is_of_training, words)):
        args.features = SCRATCH
    auto = args.num_clusters if isinstance(args.num_clusters, Auto) else None
    numbers: list[int] = [] if auto else args.num_clusters
    request = {
        "folder": str(root.resolve()),
        "num_clusters": numbers[0] if len(numbers) == 1 else None,
        "quick": args.quick,
        "features": identity(args.features),
        "no_flip": args.no_flip,
        "words": words,
    }
    if args.quick and args.minutes:
        raise ConfigError("--quick refines nothing, and --minutes says for how long to refine; leave one of them out")
    project = Project(output, request)

    look = find_look(root, max(numbers, default=2))
    limits = auto.within(look.num_images) if auto else None
    with project.hold():
        began, number = recorded_number(project.folder)
        if began and not again:
            request["num_clusters"] = number
        if limits:
            found = find_number(project, look, args, words, again, limits)
            if found is None:
                return 0
            numbers = args.num_clusters = [found]
            again = False
        if numbers == [request["num_clusters"]]:
            return cluster(project, look, args, words, again)
        return cluster_several(project, look, args, words, again)


def find_number(
    project: Project, look: Look, args: Any, words: list[str], again: bool, limits: tuple[int, int]
) -> int | None:
    """Find the number of clusters with the features of a project, which then is of that number, unless it has one.

    Returns None in a dry run, which only draws images.
    """
    args.num_clusters = list(limits)
    open_project(project, look, args, words, again)
    write_number_config(project, *limits, words)
    if not read_number(project) and not run_all([(project, [project.stages[0], NUMBER])], project, args):
        return None
    found = read_number(project)
    say(found["sentence"])
    if project.request["num_clusters"] is None:
        take_number(project, look, found["num_clusters"], args, words)
    project.write(number=found)
    return found["num_clusters"]


def cluster(project: Project, look: Look, args: Any, words: list[str], again: bool) -> int:
    """Run what is left of a clustering whose folder is held; returns the exit code."""
    if args.link_to:
        find_sorter(project, args, args.link_to)  # what is in the way is said before anything runs
    if not open_project(project, look, args, words, again):
        say("this clustering is finished; overwrite=true starts it again")
    elif not run_all([(project, project.stages)], project, args):
        return 0
    report(project)
    if args.link_to and not args.dry_run:
        link(project, args, args.link_to)
    return 0


def cluster_several(shared: Project, look: Look, args: Any, words: list[str], again: bool) -> int:
    """Run what is left of several numbers of clusters on the features of one project; returns the exit code."""
    numbers: list[int] = args.num_clusters
    open_project(shared, look, args, words, again)
    owned.require_own(shared.folder, [INDEX], "move it away")
    projects = [project_of(shared, number, numbers) for number in numbers]
    with contextlib.ExitStack() as held:
        for project in projects:
            if project is not shared:
                held.enter_context(project.hold())
        folders = {}
        if args.link_to:
            names = [name_of(number, numbers) for number in numbers] if len(numbers) > 1 else [""]
            folders = {project: str(Path(args.link_to, name)) for project, name in zip(projects, names, strict=True)}
        for project, folder in folders.items():
            find_sorter(project, args, folder)
        for project in projects:
            if project is not shared:
                open_project(project, look, args, words, again)
        left = [project for project in projects if not project.finished]
        if left:
            jobs = [(project, project.stages) for project in left if project is not shared]
            jobs.insert(0, (shared, shared.stages if shared in left else shared.stages[:1]))
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


def find_sorter(project: Project, args: Any, folder: str) -> Sorter:
    """What puts links into the folder of --link_to; raises UserError when it holds anything else."""
    return make_sorter(Path(folder), Path(args.folder), project.home, project.request["num_clusters"])


def link(project: Project, args: Any, folder: str) -> None:
    """Sort the images by links, as clusters.csv says."""
    num_images = link_images(find_sorter(project, args, folder), Path(args.folder), project.folder / "clusters.csv")
    say(f"links, one folder a cluster: {num_images:,} in {folder}")


def run_all(jobs: list[tuple[Project, list[str]]], first: Project, args: Any) -> bool:
    """Run what is left of some stages of projects, the `first` one around the others, and write their results.

    Returns False in a dry run, which only draws images.
    """
    display = Display([make_work(project, stage) for project, stages in jobs for stage in stages], first.folder / LOG)
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
            if stages == project.stages and project.request["num_clusters"]:
                with display.stage("writing the report"):
                    found, scores = show(project)
                project.write(result={"model": MODEL, "scores": scores, "verdict": verdict_of(found)})
    return True


def parse(parser: Any, argv: Sequence[str] | None) -> Any:
    """Parse the command line: the first plain word is the folder, the rest are `key=value`."""
    made = parser.parse_intermixed_args(argv)
    plain = [made.folder, *made.overrides]
    folders = [word for word in plain if "=" not in word] or plain[:1]
    if len(folders) > 1:
        raise ConfigError(
            f"two folders are given, {folders[0]} and {folders[1]}; give one, or put both into one folder"
        )
    plain.remove(folders[0])
    made.folder = expand_path(folders[0])
    made.overrides = plain
    return made


def is_of_training(word: str) -> bool:
    """Whether a `key=value` word says how a network is trained from scratch."""
    return word.startswith(("simclr.", "scan.", "selflabel.")) or word.partition("=")[0] in TRAINING


def take_overwrite(words: Sequence[str]) -> tuple[list[str], bool]:
    """The words without `overwrite`, and its value; raises ConfigError for keys that are cluster.py's own to set."""
    for word in words:
        key = split_stage(word)[1].partition("=")[0]
        if key in FORBIDDEN:
            raise ConfigError(
                f"{key} is set by cluster.py itself; "
                "leave it out (use --output, --num_clusters, or the stage scripts with its configs)"
            )
    flag = apply_overrides({}, [word for word in words if word.startswith("overwrite=")]).get("overwrite", False)
    if not isinstance(flag, bool):
        raise ConfigError(f"overwrite is {flag}, but must be true or false")
    return [word for word in words if not word.startswith("overwrite=")], flag


def find_output(root: Path, given: str | None) -> Path:
    """The output folder; raises ConfigError when it is among the images, which its pictures would then join."""
    output = Path(given) if given else Path("results") / (root.resolve().name or "folder")
    if output.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"the output folder {output} is inside the folder of images {root}; give another --output")
    return output.resolve()


def find_look(root: Path, num_clusters: int) -> Look:
    """What the images are like; raises UserError, which says what to do when they were moved."""
    try:
        return look_at(root, num_clusters)
    except NoImagesError as error:
        raise UserError(
            f"{error}; where images were moved, the clustering continues with their new place and the same --output"
        ) from error


def open_project(project: Project, look: Look, args: Any, words: list[str], again: bool) -> bool:
    """Find or choose the configs; returns whether anything is left to do."""
    project.offline = args.offline
    project.minutes = None if args.dry_run else args.minutes
    if not again and project.open(look.files):
        return not project.finished
    if again and args.dry_run and (project.folder / RECORD).exists():
        raise ConfigError(
            f"a dry run starts nothing again, and {project.folder} is there; leave out overwrite=true, or give --output"
        )
    device = next((word.partition("=")[2] for word in words if word.startswith("device=")), "auto")
    runtime = Runtime.start(device)
    if project.shared:
        features, seconds = features_of(project.shared), project.shared.facts["seconds"]
    else:
        features = choose_features(args.features, look, runtime.device.type, args.quick, args.offline)
        own = (word.partition("=")[2] for word in words if split_stage(word)[1].startswith("weights="))
        features = replace(features, weights=next(own, None))
        require_weights(features, args.offline)
    number = project.request["num_clusters"]
    flip, most = not args.no_flip, max(args.num_clusters)
    recipe = make_recipe(look, number or most, runtime.device.type, args.quick, features, flip)
    if project.shared:
        recipe = own_part(recipe, project)
    project.check_configs(recipe, words)
    if not project.shared:
        seconds = estimate(recipe, look, runtime)
    if not number:
        recipe = shared_part(recipe)
    project.begin(look.files, again)
    project.write_configs(recipe, words)
    if not project.shared:
        note_look(project.folder, look.files.root, look.values, look.found)
    stages = stages_of(recipe, args.minutes)
    facts = {"seconds": seconds, "stages": stages, "minutes": args.minutes}
    project.write(recipe=recipe.name, reasons=recipe.reasons, result=None, **facts)
    return True


def make_work(project: Project, stage: str) -> Work:
    """What a stage has to do, for the display."""
    p = project.load(stage)
    folder = Path(p[f"{SETUPS[stage].stage}_dir"])
    number = f" (K = {project.request['num_clusters']})" if project.shared else ""
    return Work(TITLES[stage] + number, folder, p.epochs or 1, project.facts["seconds"].get(stage, 0.0))


def say_plan(jobs: list[tuple[Project, list[str]]], display: Display) -> None:
    """Say which recipe runs, where its configs are, and about how long it takes."""
    project = jobs[0][0]
    for reason in project.facts["reasons"]:
        display.line(reason)
    trained = {stage: project.load(stage).epochs for project, stages in jobs for stage in stages}
    epochs = ", ".join(TITLES[stage] + (f" {num} epochs" if num else "") for stage, num in trained.items())
    each = f", for {len(jobs) - 1} numbers of clusters" if len(jobs) > 1 else ""
    left = sum((work.epochs - work.epochs_done()) * work.seconds for work in display.works)
    display.line(f"{epochs}{each}; about {duration(left)} left")
    display.line(f"configs: {project.env_path.parent}; what the stages say: {display.log_path}")


def run_stages(project: Project, stages: list[str], display: Display, num_done: int) -> None:
    """Run what is left of the stages of a project, before which the display has `num_done` others."""
    root, total = Path(project.request["folder"]), len(display.works)
    for number, stage in enumerate(stages, num_done + 1):
        work = display.works[number - 1]
        with display.stage(f"{number}/{total} {work.title}"):
            files = find_images(root, "images", None, quiet=True)
            project.check_unchanged(files)
            ended = ""
            try:
                main_of(stage)(project.arguments(stage))
            except (NothingConfidentError, TimeOverError) as error:
                ended = str(error)
            except UserError as error:
                raise type(error)(in_context(str(error), work.folder)) from error
        if ended:
            warn(f"refining ended early, and what there is competes: {ended}")
            return
        seconds = read_record(work.folder).get("seconds", 0.0)
        display.line(f"{number}/{total} {work.title}: done, {duration(seconds)}")


def in_context(message: str, folder: Path) -> str:
    """A stage's error, where it proposes what would do something else here than in the stage's own script."""
    if "overwrite=true" not in message and "run_name" not in message:
        return message
    return (
        f"{message} (in the words of the stage script; for cluster.py, move {folder} away to repeat this stage alone: "
        "overwrite=true would remove all stages, and run_name is its own)"
    )


def show(project: Project) -> tuple[Delivery, dict[str, Any]]:
    """Hand out the best model, write report.html and clusters.csv; returns it, and the scores by labels, if any."""
    p = project.load(project.stages[-1])
    dataset = get_val_dataset(p)
    found = deliver(project, dataset, Runtime.of(p))
    p = project.load(found.stage)
    scores = clusters.score_prediction(found.prediction, dataset)
    write_clusters(project.folder / "clusters.csv", dataset.paths, found.prediction)
    left_out = sorted(
        set(find_images(Path(project.request["folder"]), "images", None, quiet=True).paths) - set(dataset.paths)
    )
    page, verdict = project.folder / "report.html", {**verdict_of(found), "number": for_page(project)}
    clusters.write_report(page, p, found.path, dataset, found.prediction, scores, verdict, left_out)
    lines = "".join(f"{escape(name)}\n" for name in left_out)  # one line a name
    write_text(project.folder / UNREADABLE, lines, listed=True)
    return found, {key: value for key, value in scores.items() if key not in ("confusion", "matching")}


def report(project: Project) -> None:
    """Say what came out and where it is."""
    result = project.facts["result"]
    if verdict := result.get("verdict"):  # earlier versions had none
        for line in clusters.candidate_table(verdict["candidates"]):
            say(line)
        say(f"chosen: {verdict['reason']}")
        if "in_use" in verdict:
            say("clusters in use: {} of {}".format(*verdict["in_use"]))
        say(f"how far to trust it: {verdict['trust']}")
    if result["scores"]:
        say("labels only score: " + clusters.words(result["scores"], project.request["num_clusters"]), "green")
    unreadable = project.folder / UNREADABLE
    if unreadable.exists() and unreadable.stat().st_size:
        num_files = unreadable.read_bytes().count(b"\n")
        warn(f"unreadable files, left out: {num_files:,}, named in {unreadable}")
    say(f"model: {project.folder / result['model']}")
    say(f"report: {project.folder / 'report.html'}")
    say(f"clusters: {project.folder / 'clusters.csv'}")


def report_shortly(project: Project) -> None:
    """Say in a line what came out of one of several numbers of clusters."""
    result, number = project.facts["result"], project.request["num_clusters"]
    trust = result["verdict"]["trust"] if result.get("verdict") else ""
    say(f"K = {number}: {project.folder / 'report.html'}; {trust}")
    if result["scores"]:
        say("labels only score: " + clusters.words(result["scores"], number), "green")


def run() -> int:
    """The command that an installation gives."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(run())
