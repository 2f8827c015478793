"""Write docs/configs.md: every key of a config and every option of every named part, from the schema itself.

    python -m docs.configs

Types and ranges come from annotations, meanings from docstrings; nothing is written twice.
"""

import importlib
import inspect
import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from system.sections import Section, section_of
from utils.schema import CARRIED_OUT, Config, Environment
from utils.setups import SETUPS
from utils.tables import TABLES, Table

PATH = Path(__file__).with_suffix(".md")
UNBOUNDED = 2**31  # bounds that only keep slips from asking for all memory are not shown
BLOCKS = re.compile(r"^(Args|Shape|Raises|Example|Returns):", re.MULTILINE)
HEADINGS = {
    "train_db_name": "Data sets: `train_db_name`, `val_db_name`",
    "backbone": "Backbones: `backbone`",
    "contrastive head": "The contrastive head of a pretext task",
    "criterion": "Losses: `criterion`",
    "optimizer": "Optimizers: `optimizer`",
    "scheduler": "Schedules: `scheduler`",
    "evaluation": "The evaluation transform",
    "augmentation_strategy": "Training views: `augmentation_strategy`",
}
OPTIONS = {
    "train_db_name": "`train_db_kwargs` and `val_db_kwargs`",
    "backbone": "keys of their own; a stem that is not given is the one that suits the data set",
}
INTRODUCTION = """\
# Config keys

Written by `python -m docs.configs` from the schema that checks a config; do not edit it by hand.

A config is a YAML file with these keys, nested ones with a dot. `base:` names a file, or a list of files, relative to
the config; later ones override earlier ones, the config overrides all, mappings key by key. A base has no base. On the
command line `key=value` overrides both: `epochs=50 optimizer_kwargs.lr=0.001`. A key that does not exist, or a value
out of range, is an error before anything runs.
"""


def describe(kind: dict[str, Any]) -> str:
    """A JSON schema of a value in words."""
    if "anyOf" in kind:
        return " or ".join(words for words in map(describe, kind["anyOf"]) if words)
    values = kind.get("enum", [kind["const"]] if "const" in kind else None)
    if values:
        return ", ".join(f"`{value}`" for value in values)
    name = kind.get("type")
    if name in ("integer", "number"):
        return " ".join(filter(None, ["whole number" if name == "integer" else "number", _range(kind)]))
    if name == "array":
        count = f"{kind['minItems']} × " if "minItems" in kind else ""
        return f"list of {count}{describe(kind['items'])}"
    words = {"boolean": "`true`, `false`", "string": "text", "object": "mapping", "null": ""}
    return words.get(name or "", "")


def _range(kind: dict[str, Any]) -> str:
    lowest = f"above {kind['exclusiveMinimum']:g}" if "exclusiveMinimum" in kind else ""
    highest = f"below {kind['exclusiveMaximum']:g}" if "exclusiveMaximum" in kind else ""
    if kind.get("maximum", UNBOUNDED) < UNBOUNDED:
        highest = f"to {kind['maximum']:g}" if kind["maximum"] < 1e6 else ""
    if "minimum" in kind:
        lowest = f"from {kind['minimum']:g}"
    return " ".join(filter(None, [lowest, highest]))


def rows_of(
    section: type[Section], meanings: dict[str, str], inherited: Collection[str] = (), prefix: str = ""
) -> Iterator[str]:
    """The lines of a table: key, what it may be, default, meaning; `inherited` ones are the evaluation's."""
    whole = section.model_json_schema()
    allowed = {table.key: called(table.entries) for table in TABLES} if section is Config else {}
    for name, kind in whole.get("properties", {}).items():
        annotation = section.model_fields[name].annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from rows_of(annotation, {}, inherited, f"{prefix}{name}.")
            continue
        given = "required" if name in whole.get("required", []) else _default(kind.get("default"))
        given = "as evaluated" if f"{prefix}{name}" in inherited else given
        meaning = " ".join((kind.get("description") or meanings.get(name, "")).split())
        words = allowed.get(name) or describe(kind)
        yield f"| `{prefix}{name}` | {words} | {given} | {meaning[:1].upper()}{meaning[1:]} |"


def _default(value: Any) -> str:
    if value in (None, {}):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def called(names: Collection[str]) -> str:
    """Names of parts as one writes them in a config."""
    return ", ".join(f"`{name}NAME`" if name.endswith("/") else f"`{name}`" for name in names)


def table_of(
    section: type[Section], meanings: dict[str, str] | None = None, inherited: Collection[str] = ()
) -> list[str]:
    """A table in Markdown; empty where there is no option."""
    rows = list(rows_of(section, meanings or {}, inherited))
    return ["| key | value | default | meaning |", "|---|---|---|---|", *rows, ""] if rows else []


def explain(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What the docstring of a function says of it, and of its parameters under `Args:`."""
    text = inspect.getdoc(getattr(function, "func", function)) or ""
    parts = BLOCKS.split(re.sub(r"\s+Raises\s[^:]*?\.(?=\n\n|$)", "", text))
    blocks = dict(zip(parts[1::2], parts[2::2], strict=True))
    found = re.findall(r"^ +(\w+): (.*(?:\n {8,}.*)*)", blocks.get("Args", ""), re.MULTILINE)
    return parts[0].strip(), {name: " ".join(words.split()) for name, words in found}


def entries_of(table: Table) -> Iterator[str]:
    """The parts of a table, those of one function together, each with its options."""
    groups: dict[Any, list[str]] = {}
    for name, entry in table.entries.items():
        groups.setdefault(getattr(entry, "func", entry), []).append(name)
    for entry, names in groups.items():
        text, meanings = explain(entry)
        for function in table.more:
            meanings |= explain(function)[1]
        if len(table.entries) > 1:
            yield f"### {called(names)}\n"
        yield text + "\n"
        yield from table_of(
            section_of(table.entries[names[0]], *table.more, left_out=table.not_options),
            meanings,
            dotted(entry.as_evaluated("", {"mean": "", "std": ""})) if table.key == "augmentation_strategy" else (),
        )


def methods() -> Iterator[str]:
    """The options of the methods that have some, from the `train` of their scripts."""
    for name, setup in SETUPS.items():
        train = getattr(importlib.import_module(setup.module), "train", None)
        options = table_of(section_of(train, left_out=("p", "run")), explain(train)[1]) if train else []
        if options:
            yield from (f"### `{name}`\n", *options)


def dotted(nested: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys of a nest of mappings, with dots."""
    parts = [dotted(v, f"{prefix}{k}.") if isinstance(v, dict) else [prefix + k] for k, v in nested.items()]
    return [key for part in parts for key in part]


def render() -> str:
    """The whole page."""
    lines = [INTRODUCTION, "## env.yml\n", *table_of(Environment), "## Every stage\n", *table_of(Config)]
    same = ", ".join(f"`{key}`" for key in sorted(CARRIED_OUT & Config.model_fields.keys()))
    lines += [f"Two configs are the same run when they differ in nothing but {same} and paths.\n"]
    lines += ["## Setups: `setup`\n", "| setup | run by | results in | starts from | needs |", "|---|---|---|---|---|"]
    for name, setup in SETUPS.items():
        needs = ", ".join(f"`{key}`" for key in setup.needs) or "nothing more"
        lines.append(f"| `{name}` | `python {setup.script}` | `{setup.stage}/` | {setup.starts_from or ''} | {needs} |")
    lines += ["", "## Methods: `method_kwargs`\n", "Options that one setup alone has.\n", *methods()]
    for table in TABLES:
        if table.key in HEADINGS:
            options = OPTIONS.get(table.key, f"`{table.kwargs}`")
            lines += [f"## {HEADINGS[table.key]}\n", f"The options are in {options}.\n", *entries_of(table)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")
