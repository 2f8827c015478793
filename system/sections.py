"""Sections of a config: the value types that keys have, and a schema told by a signature."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, create_model
from pydantic_core import PydanticCustomError

from system.errors import ConfigError
from system.paths import expand_path

# Upper bounds keep a slip of the keyboard from asking for more memory than there is.
Positive = Annotated[int, Field(ge=1, le=2**31)]
Count = Annotated[int, Field(ge=0, le=2**62)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=,+-]*$", max_length=200)]


def _as_text(value: Any) -> str:
    # pydantic's own strings cannot hold a file name whose bytes are not UTF-8.
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "Input should be a valid string")
    return value


def _expand(value: Any) -> str:
    try:
        return str(Path(expand_path(_as_text(value))))
    except ConfigError as error:
        raise ValueError(str(error)) from error


GivenPath = Annotated[str, PlainValidator(_as_text)]
"""A path as it was given; who opens it expands it."""
Folder = Annotated[str, PlainValidator(_expand)]


class Section(BaseModel):
    """A part of a config: unknown keys are errors, numbers are not made of strings."""

    model_config = ConfigDict(extra="forbid", strict=True)


def section_of(*functions: Callable[..., Any], left_out: tuple[str, ...] = ()) -> type[Section]:
    """A section whose keys are the parameters of functions, with their annotations and defaults.

    Left out are those of that name, those that are only positional, and `**` ones.
    """
    fields: dict[str, Any] = {}
    for function in functions:
        for name, parameter in inspect.signature(function).parameters.items():
            if name in left_out or parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_KEYWORD):
                continue
            fields[name] = (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
    return create_model("Kwargs", __base__=Section, **fields)
