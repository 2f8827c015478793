"""Checks of what an augmentation is built from; every fault is one ConfigError sentence."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from system.errors import ConfigError


def section(name: str, values: Any, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Any]:
    """A mapping with all required keys and no unknown one."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name} must be a mapping with the keys {', '.join(required)}, not {values!r}")
    known = [*required, *optional]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{name} has no key {key!r}; {hint}")
    for key in required:
        if key not in values:
            raise ConfigError(f"{name} lacks the key {key!r}")
    return dict(values)


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number in low..high."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{name} must be a number in {low:g}..{high:g}, not {value!r}")
    return float(value)


def whole(name: str, value: Any, low: int, high: int = 65536) -> int:
    """A whole number in low..high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} must be a whole number in {low}..{high}, not {value!r}")
    return value


def numbers(name: str, values: Any, count: int, low: float, high: float) -> tuple[float, ...]:
    """A sequence of count numbers in low..high."""
    if not isinstance(values, list | tuple) or len(values) != count:
        raise ConfigError(f"{name} must be a list of {count} numbers, not {values!r}")
    return tuple(number(name, value, low, high) for value in values)


def span(name: str, values: Any, low: float, high: float) -> tuple[float, float]:
    """Two numbers in low..high, the first above zero and not above the second."""
    first, last = numbers(name, values, 2, low, high)
    if not 0 < first <= last:
        raise ConfigError(f"{name} must be [smallest, largest], both above 0, not {values!r}")
    return first, last
