"""Whether two configs say the same about what a run computes."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

PATHS = ("_dir", "_checkpoint", "_model", "_path")
"""How keys end that say where results are."""
EARLIER = {"stream": "auto", "on_bad_image": "error"}
"""Defaults that earlier versions wrote for every data set, also for those without such options."""


def map_paths(value: Any, change: Callable[[str], str], key: str = "") -> Any:
    """A config with every path of results in it, and every directory of a cache, changed."""
    if isinstance(value, dict):
        return {name: map_paths(inner, change, name) for name, inner in value.items()}
    return change(value) if isinstance(value, str) and key.endswith(PATHS) else value


def to_plain(value: Any) -> Any:
    """An EasyDict (or any nest) as plain dicts and lists, for YAML, JSON and comparison."""
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):  # an empty one says nothing
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


class Images(Protocol):
    """A run's folders of images: whether they are still what they were."""

    @property
    def keys(self) -> Collection[str]:
        """Dotted keys of the config that only say where the images are."""

    def changes(self, folder: Path, finished: bool = False) -> str:
        """How they differ from what is noted in a run folder, in words; empty when they do not."""

    def note(self, folder: Path, again: bool) -> None:
        """Note in a run folder what they are now."""

    def are_those_of(self, folder: Path, old: Mapping[str, Any]) -> bool:
        """Whether they are the images of the run in a folder, whose config is `old`."""


@dataclass(frozen=True)
class Keys:
    """What is known of a config: which keys only say how a run is carried out, and what absent ones mean."""

    carried_out: Collection[str] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    images: Images | None = None
    """The run's folders of images, whose keys do not count where they hold the same images."""
    has_model: bool = True
    """Whether a finished run leaves a model; of one without, the record alone says that it is finished."""
    start: Path | None = None
    """The model that the run starts from."""
    growing: Collection[str] = ()
    """Numbers with which a run goes on where they are larger than before, even when it was finished."""


def differing_keys(old: dict[str, Any], new: dict[str, Any], keys: Keys) -> list[str]:
    """Dotted keys in which two configs say different things about what is computed; paths of results do not count."""

    def computed(config: dict[str, Any]) -> dict[str, Any]:
        whole = {**keys.defaults, **config}
        kept = {key: value for key, value in whole.items() if key not in keys.carried_out}
        flat = _flatten({key: value for key, value in kept.items() if not key.endswith(PATHS)})
        # A cache changes what images are like, but not where it is.
        flat |= {key: bool(value) or None for key, value in flat.items() if key.endswith("_db_kwargs.cache_dir")}
        return {key: value for key, value in flat.items() if EARLIER.get(key.partition("_db_kwargs.")[2]) != value}

    a, b = computed(old), computed(new)
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
