"""A folder of images sorted into one directory a cluster, by links: the images stay where they are."""

import contextlib
from pathlib import Path
from typing import Any

from recipes.project import Project
from report.edits import read_clusters
from report.sorting import Sorter, cluster_folders, link_file
from system.console import say
from system.errors import ConfigError, UserError


def make_sorter(folder: Path, root: Path, output: Path, num_clusters: int) -> Sorter:
    """What sorts the images of `root` into `folder`, for the clustering in `output`; writes nothing yet.

    Raises ConfigError for a folder within one of the two, UserError for one that holds anything but what an
    unfinished call of the same clustering put there.
    """
    for other, what in ((root, "the folder of images"), (output, "the output folder")):
        if folder.resolve().is_relative_to(other.resolve()):
            raise ConfigError(f"the folder of --link_to, {folder}, is inside {what} {other}; give another")
    return Sorter(folder, link_file, cluster_folders(num_clusters), {"clustering": str(output.resolve())})


def link_images(sorter: Sorter, root: Path, table: Path) -> int:
    """Link every image that `table`, a clusters.csv, has a row of; returns how many. Raises UserError for another."""
    found = read_clusters(table)
    if max(found.clusters) >= len(sorter.groups) - 1:  # the last one is of images in no cluster
        raise UserError(f"{table} is not of this clustering: it has a cluster {max(found.clusters)}; restore it")
    with contextlib.closing(sorter):
        sorter.write([f"{root}/{path}" for path in found.paths], found.clusters)
        sorter.finish()
    return len(found.paths)


def find_sorter(project: Project, args: Any, folder: str, num_clusters: int) -> Sorter:
    """What puts links into the folder of --link_to; raises UserError when it holds anything else."""
    return make_sorter(Path(folder), Path(args.folder), project.home, num_clusters)


def link(project: Project, args: Any, folder: str) -> None:
    """Sort the images by links, as clusters.csv says."""
    sorter = find_sorter(project, args, folder, project.request["num_clusters"])
    num_images = link_images(sorter, Path(args.folder), project.folder / "clusters.csv")
    say(f"links, one folder a cluster: {num_images:,} in {folder}")
