"""A config's YAML with the files that it builds on, and where each of its keys came from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from system.errors import ConfigError
from system.paths import expand_path
from system.yaml_file import load_placed
from utils.overrides import merge

COMMAND_LINE = "the command line"


class Origins:
    """The file, or the command line, that each key of a config was last given in."""

    def __init__(self, file: Path | str) -> None:
        self.file, self._known = str(file), dict[str, str]()

    def add(self, content: dict[Any, Any], file: Path | str, prefix: str = "") -> None:
        """Remember the keys of a file, which override the earlier ones."""
        for key, value in content.items():
            self._known[f"{prefix}{key}"] = str(file)
            if isinstance(value, dict):
                self.add(value, file, f"{prefix}{key}.")

    def add_words(self, words: Sequence[str]) -> None:
        """Remember the keys of `key=value` words: one that is given whole hides what it held."""
        for key in (word.partition("=")[0] for word in words):
            self._known = {name: file for name, file in self._known.items() if not name.startswith(f"{key}.")}
            self._known[key] = COMMAND_LINE

    def of(self, key: str) -> str:
        """Where a dotted key came from, or what it is a part of; the config's own file where nothing is known."""
        while key not in self._known and "." in key:
            key = key.rpartition(".")[0]
        return self._known.get(key, self.file)


def load_with_bases(path: Path) -> tuple[dict[str, Any], Origins]:
    """A config with its `base:` (a file's path relative to it, or a list of them) below it, and its keys' origins.

    Later bases override earlier ones, the file overrides all, nested mappings key by key. Raises ConfigError for what
    is not a path, is named twice, cannot be read, or has a base of its own.
    """
    content, origins = load_placed(path), Origins(path)
    named = content.pop("base", None)
    whole: dict[str, Any] = {}
    seen = {path.resolve(): path}
    for base in _names(named, path):
        file = path.parent / expand_path(base)
        try:
            below = load_placed(file)
        except ConfigError as error:
            raise ConfigError(f"the base of {path}: {error}") from error
        if file.resolve() in seen:
            what = "is its own base" if file.resolve() == path.resolve() else f"names the base {base} twice"
            raise ConfigError(f"{path} {what}; remove it from base")
        if "base" in below:
            raise ConfigError(f"{file}: a base may not have a base of its own; name both in {path}, as base: [A, B]")
        seen[file.resolve()] = file
        whole = merge(whole, below)
        origins.add(below, file)
    origins.add(content, path)
    return merge(whole, content), origins


def _names(named: Any, path: Path) -> list[str]:
    names = named if isinstance(named, list) else [] if named is None else [named]
    if not all(isinstance(name, str) and name and name.isprintable() for name in names):
        raise ConfigError(f"{path}: base must be the path of a YAML file, relative to this one, or a list of paths")
    return names
