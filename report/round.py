"""The next round: report.html as label.py leaves it, with names as they stand and what the classifier is unsure of."""

from pathlib import Path
from typing import Any

import numpy as np

from report.edits import Clustering, Edits
from report.pages import to_json
from system.console import say, warn
from system.files import is_own, write_text

BEGIN, END = '<script type="application/json" id="round">', "</script>"
"""Around what a page knows of labels; nothing else in it can look so, as other data and texts are escaped."""


def write_round(
    page: Path,
    clustering: Clustering,
    edits: Edits,
    classes: list[str],
    likely: np.ndarray | None = None,
    sure: np.ndarray | None = None,
) -> None:
    """Tell a clustering's page what label.py made of it; a page that is not there, or not its own, stays as it is.

    Args:
        page: report.html.
        edits: from which the page goes on.
        classes: names of the classes of a classifier.
        likely: which of them each image is by it, int `[N]`; None: there is no classifier.
        sure: how probable it finds each image's label, or that class where there is none, 0..1 `[N]`.
    """
    if not is_own(page):
        return
    text = page.read_text(encoding="utf-8")
    start = text.find(BEGIN) + len(BEGIN)
    if text.count(BEGIN) != 1 or f'"fingerprint":"{clustering.fingerprint}"' not in text:
        warn(f"{page} is of an earlier version, or of another clustering: it does not show what is doubtful")
        return
    content: dict[str, Any] = {"edits": edits.model_dump(), "classes": classes, "likely": None, "sure": None}
    if likely is not None and sure is not None:
        content |= {"likely": likely.tolist(), "sure": np.round(10_000 * sure).astype(int).tolist()}
    write_text(page, text[:start] + str(to_json(content)) + text[text.index(END, start) :], listed=True)
    say(f"for another round, what is doubtful first: {page}")
