"""The next round: report.html as label.py leaves it, with names as they stand and what the classifier is unsure of."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from report.edits import Clustering, Edits
from report.pages import to_json
from system.console import say, warn
from system.files import is_own, write_text

BEGIN, END = '<script type="application/json" id="round">', "</script>"
"""Around what a page knows of labels; nothing else in it can look so, as other data and texts are escaped."""
NOTHING = "null"
_FINGERPRINT = re.compile(r'"fingerprint":"(\w+)"')


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
    content: dict[str, Any] = {"edits": edits.model_dump(), "classes": classes, "likely": None, "sure": None}
    if likely is not None and sure is not None:
        content |= {"likely": likely.tolist(), "sure": np.round(10_000 * sure).astype(int).tolist()}
    if _put(page, str(to_json(content)), clustering.fingerprint):
        say(f"for another round, with the doubtful images first: {page}")
    else:
        warn(f"{page} is of an earlier version, or of another clustering: it does not show what is doubtful")


def read_round(page: Path) -> tuple[str, str] | None:
    """The fingerprint of a page's clustering and what label.py told the page; None where it told it nothing."""
    if not is_own(page):
        return None
    text = page.read_text(encoding="utf-8", errors="replace")  # it may have been edited
    clustering, content = _FINGERPRINT.search(text), text.partition(BEGIN)[2].partition(END)[0]
    return (clustering[1], content) if clustering and content not in ("", NOTHING) else None


def keep_round(page: Path, earlier: tuple[str, str] | None) -> None:
    """Tell a page that was written again what `read_round` gave of the earlier one, if it is of the same clustering."""
    if earlier:
        fingerprint, content = earlier
        _put(page, content, fingerprint)


def _put(page: Path, content: str, fingerprint: str) -> bool:
    """Write what a page knows of labels into it, and return True; False for a page of another clustering or version."""
    text = page.read_text(encoding="utf-8")
    start = text.find(BEGIN) + len(BEGIN)
    if text.count(BEGIN) != 1 or f'"fingerprint":"{fingerprint}"' not in text:
        return False
    write_text(page, text[:start] + content + text[text.index(END, start) :], listed=True)
    return True
