"""Words of a command line that concern several stages: `scan.epochs=25` and lists of values, `seed=0,1,2`."""

from collections.abc import Sequence

from system.errors import ConfigError
from utils.schema import STAGE_OF, STAGES

__all__ = ["STAGES", "STAGE_OF", "split_stage", "split_values", "words_of"]


def split_stage(word: str) -> tuple[str | None, str]:
    """The stage that a word begins with, if any, and the word without it: `scan.epochs=25` → scan, `epochs=25`."""
    first, dot, rest = word.partition(".")
    if dot and first in STAGE_OF and "=" not in first:
        return STAGE_OF[first], rest
    return None, word


def words_of(stage: str, words: Sequence[str]) -> list[str]:
    """The words that concern a stage: its own, and those that name none."""
    return [rest for owner, rest in map(split_stage, words) if owner in (None, stage)]


def split_values(word: str) -> tuple[str, list[str]]:
    """A key and its values: `seed=0,1,2` → seed, [0, 1, 2]; commas inside brackets or quotes belong to a value.

    Raises ConfigError for what is no `key=value`, and for an empty value between commas.
    """
    key, sign, text = word.partition("=")
    if not sign or not key or not all(key.split(".")):
        raise ConfigError(f"'{word}' on the command line is no `key=value`; see --help")
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
        raise ConfigError(f"'{word}' on the command line has an empty value between commas")
    return key, list(dict.fromkeys(values))
