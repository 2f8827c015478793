"""What a person made of the clusters: edits.json and labels.csv, as report.html hands them out and label.py reads them.

A group is a cluster, by its number, or one that the person added, whose numbers come after. An image is in the group
of its cluster, or in the one that it was moved to; a group may be merged into another, which is followed to its end.
The label of an image is the name of the group it ends in, and empty where that has no name or is not a group. It is
given by hand where a person moved the image to a group of a name, or to none; a new group without a name says nothing.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from clustering.prediction import OTHER
from data.labels import MAX_BYTES, label_of, path_of, read_labeled, read_rows
from report.outputs import encode_rows
from system.bounded import read_json
from system.errors import UserError
from system.files import write_file
from system.text import csv_cell, csv_path, is_utf8, shown

OUT = OTHER  # the group of images that belong nowhere, left out by the clustering or by hand
HEADER = ["path", "label", "cluster", "confidence", "by_hand"]
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no", "")


@dataclass(frozen=True)
class Clustering:
    """The rows of clusters.csv: paths, clusters, and confidences as they are written there."""

    paths: list[str]
    clusters: list[int]
    confidence: list[str]

    @property
    def fingerprint(self) -> str:
        """What tells this clustering from every other."""
        return fingerprint(self.paths, self.clusters)


@dataclass(frozen=True)
class Labels:
    """A label for every image, empty where there is none, and whether a person gave it to that very image."""

    names: list[str]
    by_hand: list[bool]
    shared: list[str]
    """Names that several clusters were given."""

    @property
    def classes(self) -> list[str]:
        """The names in use, sorted."""
        return classes_of(self.names)


class Edits(BaseModel):
    """The contents of edits.json; the keys of `names` and `merged` are groups, those of `moved` images."""

    model_config = ConfigDict(strict=True)

    format: Literal["scan-edits-1"]
    fingerprint: str
    names: dict[str, str]
    merged: dict[str, int]
    rejected: list[int]
    moved: dict[str, int]


def classes_of(names: Iterable[str]) -> list[str]:
    """The names in use among those of images, sorted; an image without one has an empty name."""
    return sorted(set(names) - {""})


def fingerprint(paths: Sequence[str], clusters: Sequence[int]) -> str:
    """A clustering's fingerprint: SHA-256 of its paths and clusters, in their order."""
    digest = hashlib.sha256()
    for path, cluster in zip(paths, clusters, strict=True):
        digest.update(f"{path}\0{cluster}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read_clusters(path: Path) -> Clustering:
    """Read clusters.csv; raises UserError when it is missing, or is not one."""
    advice = "give an output folder of cluster.py whose clustering is finished"
    rows = read_rows(path, ["path", "cluster", "confidence"], advice)
    try:
        clusters = [int(row["cluster"]) for row in rows]
        likely = all(0 <= float(row["confidence"]) <= 1 for row in rows)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; {advice}") from error
    if not rows or min(clusters) < OUT or not likely:
        raise UserError(f"{path} lists no clusters, or no confidences from 0 to 1; {advice}")
    return Clustering([path_of(row) for row in rows], clusters, [row["confidence"] for row in rows])


def read_labels(path: Path, clustering: Clustering) -> Labels:
    """Read labels.csv or edits.json, by its ending, for a clustering; raises UserError for what does not fit it."""
    return read_edits(path, clustering) if path.suffix == ".json" else read_table(path, clustering)


def read_table(path: Path, clustering: Clustering) -> Labels:
    """Labels from a CSV file with the columns `path` and `label`; without a column `by_hand` all rows are by hand.

    Images without a row have no label. Raises UserError for a path that is not in the clustering or occurs twice.
    """
    places = {name: i for i, name in enumerate(clustering.paths)}
    names, by_hand = [""] * len(places), [False] * len(places)
    for where, image, label, row in read_labeled(path):
        if image not in places:
            raise UserError(f"{where}: {shown(row['path'])} is not in clusters.csv; paths are as they are there")
        flag = row.get("by_hand", "true").lower()
        if flag not in (*TRUE, *FALSE):
            raise UserError(f"{where}: by_hand is {shown(flag)}, but must be true or false")
        names[places[image]], by_hand[places[image]] = label, flag in TRUE
    return Labels(names, by_hand, [])


def load_edits(path: Path, clustering: Clustering) -> Edits:
    """The edits of report.html in a file; raises UserError for those of another clustering."""
    try:
        edits = Edits.model_validate(read_json(path, Edits, MAX_BYTES))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; export it from report.html, or check the path") from error
    if edits.fingerprint != clustering.fingerprint:
        raise UserError(
            f"{path} holds the edits of another clustering; give those that were exported from the report.html of this "
            "one (a labels.csv fits every clustering of the same images)"
        )
    # A cluster or a new group has an image at least, so that there are no more groups than this.
    end = max(clustering.clusters) + 1 + 2 * len(clustering.paths)
    keys = (_number(path, key) for key in (*edits.names, *edits.merged))
    for group in (*keys, *edits.merged.values(), *edits.rejected, *edits.moved.values()):
        if not OUT <= group < end:
            raise UserError(f"{path} is damaged: {shown(str(group))} is no group; export it again")
    for name in edits.names.values():
        if not is_utf8(name):
            raise UserError(f"{path} is damaged: the name {shown(name)} is not UTF-8; export it again")
    return edits


def read_edits(path: Path, clustering: Clustering) -> Labels:
    """Labels from the edits of report.html; raises UserError for those of another clustering."""
    edits = load_edits(path, clustering)
    moved = {_number(path, key, len(clustering.paths)): group for key, group in edits.moved.items()}
    merged = {_number(path, key): group for key, group in edits.merged.items()}
    given = {_number(path, key): label_of(name) for key, name in edits.names.items()}
    ends = {group: _end(path, group, merged) for group in {*clustering.clusters, *moved.values(), *merged, *given}}
    none = {OUT, *edits.rejected}
    groups = [ends[moved.get(image, cluster)] for image, cluster in enumerate(clustering.clusters)]
    used = {group for group in groups if given.get(group) and group not in none}
    labels = [given[group] for group in used]
    shared = sorted({name for name in labels if labels.count(name) > 1})
    names = ["" if group in none else given.get(group, "") for group in groups]
    by_hand = [image in moved and (group in none or group in used) for image, group in enumerate(groups)]
    return Labels(names, by_hand, shared)


def to_edits(clustering: Clustering, labels: Labels) -> Edits:
    """Edits that give these labels, where they came from a table.

    A cluster is called what most of its labeled images are; an image of another label, or that was labeled by hand,
    is moved to the first cluster that is called so, or to a new group. What has no label is moved out where a person
    said so, and from a cluster that is called something to a new group without a name, where it waits for one.
    """
    counts: dict[int, Counter[str]] = {}
    for cluster, name in zip(clustering.clusters, labels.names, strict=True):
        counts.setdefault(cluster, Counter())[name] += 1
    names = {}
    for cluster, found in sorted(counts.items()):
        del found[""]
        if found and cluster != OUT:
            names[cluster] = min(found, key=lambda name: (-found[name], name))
    group_of = {name: cluster for cluster, name in sorted(names.items(), reverse=True)}
    for name in labels.classes:
        if name not in group_of:
            group_of[name] = max([*names, *counts]) + 1
            names[group_of[name]] = name
    unnamed = max([*names, *counts]) + 1
    moved = {}
    rows = zip(clustering.clusters, labels.names, labels.by_hand, strict=True)
    for image, (cluster, name, by_hand) in enumerate(rows):
        is_here = names.get(cluster, "") == name
        if by_hand or not is_here:
            elsewhere = group_of[name] if name else OUT if by_hand else unnamed
            moved[str(image)] = cluster if is_here and name else elsewhere
    return Edits(
        format="scan-edits-1",
        fingerprint=clustering.fingerprint,
        names={str(group): name for group, name in names.items()},
        merged={},
        rejected=[],
        moved=moved,
    )


def write_labels(path: Path, clustering: Clustering, labels: Labels) -> None:
    """Write labels.csv, a row an image; raises UserError when it cannot be written."""
    rows = zip(clustering.paths, labels.names, clustering.clusters, clustering.confidence, labels.by_hand, strict=True)
    lines = ([csv_path(name), csv_cell(label), *more, str(hand).lower()] for name, label, *more, hand in rows)
    data = encode_rows([HEADER, *lines])
    write_file(path, lambda file: file.write(data), record=False, listed=True)


def _number(path: Path, key: str, end: int | None = None) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) < 10) or (end is not None and int(key) >= end):
        raise UserError(f"{path} is damaged: {shown(key)} is no {'group' if end is None else 'image'}; export it again")
    return int(key)


def _end(path: Path, group: int, merged: dict[int, int]) -> int:
    """The group that a group was merged into, at the end of the chain."""
    seen = {group}
    while group in merged:
        group = merged[group]
        if group in seen:
            raise UserError(f"{path} is damaged: group {group} is merged into itself; export it again")
        seen.add(group)
    return group
