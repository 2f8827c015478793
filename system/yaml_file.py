"""Untrusted YAML: plain values, of a reasonable size, or one clear error."""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from system.errors import ConfigError
from system.text import shown

HERE = "{here}"  # in a config: the folder of the file
MAX_BYTES, MAX_DEPTH, MAX_NODES = 1 << 18, 20, 20_000

# YAML 1.1 reads `1e-4` as a string, because it asks for a dot; people write it in every config.
_FLOAT = re.compile(
    r"""^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+
    |\.[0-9_]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""".replace("\n", "").replace(" ", "")
)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that refuses duplicate keys, deep nesting and alias bombs."""

    # Bytes that are not UTF-8 may stand in a path of the command line.
    NON_PRINTABLE = re.compile(yaml.SafeLoader.NON_PRINTABLE.pattern.replace("^", "^\udc80-\udcff", 1))  # type: ignore[misc]

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ConfigError(f"is nested deeper than {MAX_DEPTH} levels")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in getattr(node, "value", ()) if isinstance(node, yaml.MappingNode) else ():
            name = str(key.value)
            if name in seen:
                raise ConfigError(
                    f"names the key '{shown(name)}' twice (line {key.start_mark.line + 1}); keep one of them"
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _check_size(node: yaml.Node | None) -> None:
    """Refuse a few lines of aliases that stand for millions of values, or for themselves, before any is made."""
    measured: dict[int, tuple[int, int]] = {}

    def measure(node: yaml.Node) -> tuple[int, int]:
        """Number of values and of levels."""
        if isinstance(node, yaml.ScalarNode):
            return 1, 1
        if id(node) not in measured:
            measured[id(node)] = MAX_NODES + 1, MAX_DEPTH + 1  # what a node that holds itself comes to
            parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
            sizes, levels = zip((0, 0), *map(measure, parts), strict=True)
            measured[id(node)] = 1 + sum(sizes), 1 + max(levels)
        return measured[id(node)]

    size, levels = measure(node) if node is not None else (0, 0)
    if size > MAX_NODES:
        raise ConfigError(f"expands to more than {MAX_NODES} values")
    if levels > MAX_DEPTH:
        raise ConfigError(f"is nested deeper than {MAX_DEPTH} levels")


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text; raises ConfigError, which begins with `source`, for whatever is wrong with it."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _check_size(node)
        return None if node is None else loader.construct_document(node)
    except ConfigError as error:
        raise ConfigError(f"{source} {error}") from error
    except Exception as error:  # a hostile text can raise anything here
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise ConfigError(f"{source} is not a config that can be read{where}: {problem}") from error


def load_yaml(path: Path | str) -> dict[str, Any]:
    """Read one YAML file that holds a mapping; raises ConfigError naming the file and the line."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise ConfigError(f"config {path} cannot be read: {problem}; check the path") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"{path} is too large for a config, which has at most {MAX_BYTES} bytes; is it the right file?"
        )
    try:
        content = parse_yaml(data.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    if content is None:
        content = {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path} must hold `key: value` lines, with words as keys")
    return content


def load_placed(path: Path) -> dict[str, Any]:
    """A config file's content; `{here}` at the beginning of a value is the folder of the file, wherever that is."""

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(inner) for key, inner in value.items()}
        if isinstance(value, str) and (value == HERE or value.startswith(f"{HERE}/")):
            return os.path.normpath(f"{path.absolute().parent}{value[len(HERE) :]}")
        return value

    return {key: placed(value) for key, value in load_yaml(path).items()}
