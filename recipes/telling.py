"""What a finished clustering says on the terminal."""

from recipes.project import Project
from recipes.record import UNREADABLE
from system.console import say, warn
from utils import clusters


def report(project: Project) -> None:
    """Say what came out and where it is."""
    result = project.facts["result"]
    if verdict := result.get("verdict"):  # earlier versions had none
        for line in clusters.candidate_table(verdict["candidates"]):
            say(line)
        say(f"chosen: {verdict['reason']}")
        if "in_use" in verdict:
            say("clusters in use: {} of {}".format(*verdict["in_use"]))
        if "left_out" in verdict:
            say(f"left out: {verdict['left_out']:,} images, in no cluster (-1 in clusters.csv)")
        say(f"how far to trust it: {verdict['trust']}")
    if result["scores"]:
        say("labels only score: " + clusters.words(result["scores"], project.request["num_clusters"]), "green")
        if not project.load(project.stages[0]).train_db_kwargs.get("labels"):
            say("the labels are the names of the images' folders; if those are not classes, ignore these scores")
        if project.facts["leave_out"]:
            say("in these scores an image that is left out counts in the cluster that it would be in")
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
