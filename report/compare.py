"""One page to compare clusterings of the same images into different numbers of clusters: scores and pictures."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report.pages import fill
from report.thumbnails import Picture, fit, to_picture
from system.errors import UserError
from system.files import write_text
from system.text import escape

SIDE = 72  # of a thumbnail, in pixels
SCORES = ("neighbors", "agreement", "evenness", "silhouette", "generalisation")
LEAD = "The same features, clustered into different numbers of clusters. Each has a report of its own to look through."
MOST_SHOWN = 60  # clusters of one clustering
QUALITY = 75


@dataclass
class Clustering:
    """One of the clusterings: `number` of clusters asked for, and its report's address as seen from the page, if any.

    `members` holds, for each cluster in use, how many images it has and the path of the one that stands for it; where
    it holds the largest alone, `num_used` is how many are in use.
    `scores` are those of the chosen candidate, `acc` is in 0..1, None without labels, `left_out` counts the images in
    no cluster.
    """

    number: int
    link: str
    members: Mapping[int, tuple[int, str]]
    chosen: str = ""
    trust: str = ""
    scores: Mapping[str, Any] | None = None
    acc: float | None = None
    left_out: int = 0
    num_used: int | None = None

    @property
    def in_use(self) -> int:
        """How many clusters hold an image."""
        return len(self.members) if self.num_used is None else self.num_used

    @property
    def largest(self) -> list[tuple[int, int, str]]:
        """(cluster, size, path) of the clusters that are shown, the largest first."""
        found = [(cluster, size, path) for cluster, (size, path) in self.members.items()]
        return sorted(found, key=lambda row: (-row[1], row[0]))[:MOST_SHOWN]


def encode(picture: Picture) -> str:
    """A thumbnail as an address that holds it."""
    file = io.BytesIO()
    fit(to_picture(picture), SIDE).save(file, "WEBP", quality=QUALITY, method=3)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def render(title: str, clusterings: Sequence[Clustering], thumbnail: Callable[[str], Picture], lead: str = LEAD) -> str:
    """Return the page as text, which begins with a title and a `lead`.

    `thumbnail(path)` gives an image, or raises UserError where it cannot be read.
    """
    pictures: dict[str, str] = {}
    for path in dict.fromkeys(path for clustering in clusterings for *_, path in clustering.largest):
        try:
            pictures[path] = encode(thumbnail(path))
        except UserError:  # it may have gone since; its cluster is shown by its size
            continue
    keys = [key for key in SCORES if any(key in (one.scores or {}) for one in clusterings)]
    return fill(
        "compare.html.j2",
        title=escape(title),
        lead=escape(lead),
        reports=any(one.link for one in clusterings),
        clusterings=clusterings,
        heads=keys,
        cells=[[_number((one.scores or {}).get(key)) for key in keys] for one in clusterings],
        labeled=any(one.acc is not None for one in clusterings),
        pictures=pictures,
        side=SIDE,
        escape_text=escape,
    )


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else ""


def write_comparison(
    path: Path,
    title: str,
    clusterings: Sequence[Clustering],
    thumbnail: Callable[[str], Picture],
    lead: str = LEAD,
) -> None:
    """Write the page as one file that asks for nothing outside itself; raises UserError when it cannot be written."""
    write_text(path, render(title, clusterings, thumbnail, lead), listed=True)
