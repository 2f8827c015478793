"""Sections of a config: the value types that keys have, a schema made from a signature, and what is said of a misfit.

One mechanism for every table of named parts (data sets, backbones, losses, optimizers, schedules, augmentations): the
annotated parameters of a function are the options that a config may give it. `section_of` reads them, `check` holds a
config against them, `checked` a call, and `look_up` finds the function by its name.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from system.errors import ConfigError
from system.paths import expand_path
from system.text import shown

SHORT = 80  # characters of a key or value in a message
# Upper bounds keep a slip of the keyboard from asking for more memory than there is. They are far above what is useful.
MAX_HEADS = 1000
Positive = Annotated[int, Field(ge=1, le=2**31)]
Count = Annotated[int, Field(ge=0, le=2**62)]
Side = Annotated[int, Field(ge=1, le=8192)]  # of an image or of what is cut out of it, in pixels
Width = Annotated[int, Field(ge=1, le=1024)]  # of a network: memory grows with its square
Batch = Annotated[int, Field(ge=1, le=2**16)]
NumFeatures = Annotated[int, Field(ge=1, le=2**14)]
NumClusters = Annotated[int, Field(ge=1, le=100_000)]
NumHeads = Annotated[int, Field(ge=1, le=MAX_HEADS)]
NumNeighbors = Annotated[int, Field(ge=1, le=10_000)]  # of an image, in a file of int64
NumReliable = Annotated[int, Field(ge=2, le=10_000)]  # the image itself is one of them
NumEpochs = Annotated[int, Field(ge=1, le=100_000)]
NumWorkers = Annotated[int, Field(ge=0, le=1024)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=,+-]*$", max_length=200)]


def _as_text(value: Any) -> str:
    # pydantic's own strings cannot hold a file name whose bytes are not UTF-8.
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "Input should be a valid string")
    if "\0" in value:
        raise ValueError("it holds a NUL character, which no path can")
    return value


def _expand(value: Any) -> str:
    try:
        return str(Path(expand_path(_as_text(value))))
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _rising(span: Sequence[float]) -> Sequence[float]:
    if span[0] > span[1]:
        raise ValueError("it should be [smallest, largest]")
    return span


GivenPath = Annotated[str, PlainValidator(_as_text)]
"""A path as it was given; who opens it expands it."""
Folder = Annotated[str, PlainValidator(_expand)]
Number = TypeVar("Number")
Span = Annotated[Sequence[Number], Field(min_length=2, max_length=2), AfterValidator(_rising)]
"""[smallest, largest], with the range that Number has: `Span[Fraction]`."""


class Section(BaseModel):
    """A part of a config: unknown keys are errors, numbers are not made of strings."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


AnySection = TypeVar("AnySection", bound=Section)
Function = TypeVar("Function", bound=Callable[..., Any])


def clash(rule: Callable[[Any], str | None]) -> Callable[[Function], Function]:
    """Give a function what its signature cannot say: `rule(options)` returns a sentence where its options clash."""

    def decorate(function: Function) -> Function:
        function.clash = rule  # type: ignore[attr-defined]
        return function

    return decorate


@functools.cache
def section_of(*functions: Callable[..., Any], left_out: tuple[str, ...] = ()) -> type[Section]:
    """A section whose keys are the parameters of functions, with their annotations, defaults and `clash`.

    Left out are those of that name, those that are only positional, `*` and `**` ones.
    """
    fields: dict[str, Any] = {}
    for function in functions:
        for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
            if name in left_out or parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                continue
            annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
            fields[name] = (annotation, ... if parameter.default is parameter.empty else parameter.default)
    plain = [getattr(function, "func", function) for function in functions]  # a partial hides the attribute
    rules = [function.clash for function in plain if hasattr(function, "clash")]

    def obey(options: Any) -> Any:
        for sentence in filter(None, (rule(options) for rule in rules)):
            raise ValueError(sentence)
        return options

    validators: dict[str, Any] = {"obey": model_validator(mode="after")(obey)} if rules else {}
    return create_model("Options", __base__=Section, __validators__=validators, **fields)


@functools.cache
def _of_kind(function: Callable[..., Any], rest: str) -> Callable[..., Any]:
    """One object for one name, so that `section_of` makes one schema of it."""
    return functools.partial(function, rest)


def look_up(table: Mapping[str, Any], name: str, key: str) -> Any:
    """The entry of a table that a config's `key` names; raises ConfigError, naming all and the nearest.

    An entry called `kind/` is a function of what follows: `kind/x` gives it with its first argument, x.
    """
    name = str(name)
    if name in table and not name.endswith("/"):
        return table[name]
    kind, slash, rest = name.partition("/")
    if rest and kind + slash in table:
        return _of_kind(table[kind + slash], rest)
    names = [f"{name}NAME" if name.endswith("/") else name for name in table]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
    raise ConfigError(f"{key} is '{shown(name, SHORT)}', but must be one of {', '.join(names)}; is it '{near}'?")


def check(
    section: type[AnySection],
    content: Any,
    source: Callable[[str], str],
    prefix: str = "",
    *,
    owner: str = "",
    also_known: Collection[str] = (),
) -> AnySection:
    """A section made of the content of a config, or ConfigError: one sentence with the key, the value, what is allowed.

    `prefix` stands before the keys ("optimizer_kwargs."), `source(key)` says where a dotted key came from, `owner` is
    whose options these are, and `also_known` names keys that are handled elsewhere.
    """
    try:
        return section.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explain(error, section, source, prefix, owner, also_known)) from error


def checked(function: Function) -> Function:
    """A constructor whose calls are checked like a config, and given sections where plain dicts came."""
    parameters = inspect.signature(function).parameters.values()
    positional = {parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD}

    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        section = section_of(function, left_out=("self",))
        given = dict(zip((name for name in section.model_fields if name in positional), args, strict=False))
        if len(given) < len(args) or given.keys() & kwargs.keys():
            return function(self, *args, **kwargs)  # raises Python's own TypeError
        name = type(self).__name__
        whole = check(section, given | kwargs, lambda key: name, owner=name)
        return function(self, **dict(whole))

    return call  # type: ignore[return-value]


def _explain(
    error: ValidationError,
    section: type[Section],
    source: Callable[[str], str],
    prefix: str,
    owner: str,
    also_known: Collection[str],
) -> str:
    errors = error.errors()
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])  # a slip is also a lack
    place = first["loc"]
    named = [str(part) for part in place if part not in ("int", "float", "bool", "literal['auto']", "[key]")]
    key = shown(".".join([*prefix.split(".")[:-1], *named]), SHORT)
    start = source(key)
    if first["type"] == "extra_forbidden":
        known = [*_keys(section, place[:-1]), *(also_known if len(place) == 1 else ())]
        takes = f"{owner} takes {', '.join(known) or 'no options'}" if owner and len(place) == 1 else ""
        near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5 if takes else 0)
        hint = f"; did you mean '{near[0]}'?" if near else f"; {takes}" if takes else ""
        return f"{start}: unknown key '{key}'{hint}"
    if first["type"] == "missing":
        return f"{start}: the key '{key}' is missing"
    if "[key]" in place:
        return f"{start}: the key '{key}' is not a word"
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    message = message.replace("an instance of Sequence", "a list")
    message = (message[0].lower() + message[1:]).replace(" after validation", "")
    if first["type"] in ("model_type", "dict_type"):
        keys = ", ".join(_keys(section, place))
        message = f"it should be a mapping{f' with the keys {keys}' if keys else ''}"
    elif not place:
        return f"{start}: {f'{key}: ' if key else ''}{message}"
    value = shown(first["input"], SHORT)
    if not str(first["input"]).isprintable():
        value = f"'{value}'"
    return f"{start}: {key} is {value}; {message}"


def _keys(section: type[Section], place: tuple[Any, ...]) -> list[str]:
    """The keys that are known at a place within a section."""
    fields = section.model_fields
    for part in place:
        annotation = fields[part].annotation if part in fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, Section)):
            return []
        fields = annotation.model_fields
    return list(fields)
