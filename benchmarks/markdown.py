"""How results are written: Markdown tables, figures of a few digits, and a machine in a few words."""

from collections.abc import Callable, Sequence
from typing import Any

from utils.schema import RUN_KEYS

Read = Callable[[str], dict[str, Any]]
"""From the name of a result file to its content."""

FOLDERS = ("root_dir", "run_name", *RUN_KEYS)
"""Keys that say in which folder a run is, and change nothing of it."""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def percent(score: dict[str, Any]) -> str:
    """Mean ± standard deviation, in percent."""
    return f"{100 * score['mean']:.1f} ± {100 * score['std']:.1f}"


def number(value: float) -> str:
    """About three digits, and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def where(machine: dict[str, Any]) -> str:
    """The machine in a few words, and the commit: `-dirty` after it stands for changes that are not in it."""
    device = machine["device"]
    if device.startswith("cpu"):
        device = f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores"
    commit = machine["commit"].removesuffix("-dirty")
    changed = " with uncommitted changes" if commit != machine["commit"] else ""
    return f"{device}, torch {machine['versions']['torch']}, commit {commit}{changed}"


def telling(words: Sequence[str]) -> list[str]:
    """Words of a command line without those that only say which folders runs are in."""
    return [word for word in words if word.partition("=")[0].rpartition(".")[2] not in FOLDERS]
