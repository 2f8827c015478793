"""`key=value` words: applied to a config, those of one stage (`scan.epochs=25`), and lists of values (`seed=0,1,2`)."""

from collections.abc import Sequence
from typing import Any

from system.errors import ConfigError
from system.text import shown
from system.yaml_file import MAX_DEPTH, parse_yaml
from utils.setups import stage_of


def split_stage(word: str) -> tuple[str | None, str]:
    """The stage that a word begins with, if any, and the word without it: `scan.epochs=25` → scan, `epochs=25`."""
    first, dot, rest = word.partition(".")
    stage = stage_of(first) if dot else None
    return (stage, rest) if stage else (None, word)


def words_of(stage: str, words: Sequence[str]) -> list[str]:
    """The words that concern a stage: its own, and those that name none."""
    return [rest for owner, rest in map(split_stage, words) if owner in (None, stage)]


def split_values(word: str) -> tuple[str, list[str]]:
    """A key and its values: `seed=0,1,2` → seed, [0, 1, 2]; commas inside brackets or quotes belong to a value.

    Raises ConfigError for what is not `key=value`, and for an empty value between commas.
    """
    key, sign, text = word.partition("=")
    if not sign or not key or not all(key.split(".")):
        raise ConfigError(
            f"'{shown(word)}' on the command line is not of the form key=value, such as epochs=50; see --help"
        )
    values, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        depth += (character in "[{") - (character in "]}") if not quote else 0
        if character == "," and not quote and depth == 0:
            values.append("")
        else:
            values[-1] += character
    values = [value.strip() for value in values]
    if len(values) > 1 and not all(values):
        raise ConfigError(f"'{shown(word)}' on the command line has an empty value between commas; remove a comma")
    return key, list(dict.fromkeys(values))


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` overridden by the keys of `over`, nested mappings key by key."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def apply_overrides(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Override a config by `key=value` words; dots lead into nested keys, values are read as YAML."""
    for word in overrides:
        key, sign, text = word.partition("=")
        if not sign or not all(key.split(".")) or key.count(".") >= MAX_DEPTH:
            raise ConfigError(
                f"'{shown(word)}' on the command line is not of the form key=value, such as epochs=50; see --help"
            )
        value = parse_yaml(text, f"the value of '{shown(key)}' on the command line")
        for part in reversed(key.split(".")[1:]):
            value = {part: value}
        first = key.split(".")[0]
        # A mapping given whole replaces the config's; a dotted key changes one entry of it.
        content = merge(content, {first: value}) if "." in key else {**content, first: value}
    return content
