"""A schema given by a signature: what is an option, what is allowed, and the sentence for what is not."""

from functools import partial
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from system.errors import ConfigError
from system.sections import Fraction, Section, Span, check, checked, clash, look_up, section_of


class Part(Section):
    share: Fraction
    name: Literal["a", "b"] = "a"


def _both(options: Any) -> str | None:
    return "x and y do not go together" if options.x and options.y else None


@clash(_both)
def build(
    first, second, /, out, part: Part, span: Span[Fraction] = (0, 1), *, x: bool = False, y: bool = False, **more
):
    """A part with options of every kind."""


SECTION = section_of(build, left_out=("out",))
GOOD = {"part": {"share": 0.5}}


def said(content, section=SECTION, **how):
    with pytest.raises(ConfigError) as error:
        check(section, content, lambda key: f"<{key}>", "kwargs.", **how)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_options_are_parameters_that_can_be_named():
    assert list(SECTION.model_fields) == ["part", "span", "x", "y"]
    options = check(SECTION, GOOD, str)
    assert (options.part.share, options.part.name, options.span, options.x) == (0.5, "a", (0, 1), False)
    assert options.model_dump(exclude_unset=True) == GOOD
    assert section_of(build, left_out=("out",)) is SECTION
    curried = section_of(partial(build, 1, 2), left_out=("out",))
    assert list(curried.model_fields) == list(SECTION.model_fields)
    assert "do not go together" in said({**GOOD, "x": True, "y": True}, curried)
    unannotated = section_of(lambda anything, number=3: None)
    assert check(unannotated, {"anything": print}, str).number == 3


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({**GOOD, "spam": 1}, "<kwargs.spam>: unknown key 'kwargs.spam'; did you mean 'span'?"),
        ({"prat": {"share": 1}}, "<kwargs.prat>: unknown key 'kwargs.prat'; did you mean 'part'?"),
        ({}, "<kwargs.part>: the key 'kwargs.part' is missing"),
        ({"part": {}}, "<kwargs.part.share>: the key 'kwargs.part.share' is missing"),
        ({"part": {"shar": 1}}, "<kwargs.part.shar>: unknown key 'kwargs.part.shar'; did you mean 'share'?"),
        ({"part": 3}, "<kwargs.part>: kwargs.part is 3; it should be a mapping with the keys share, name"),
        ({"part": {"share": 2}}, "<kwargs.part.share>: kwargs.part.share is 2; it should be less than or equal to 1"),
        ({"part": {"share": 1, "name": "c"}}, "<kwargs.part.name>: kwargs.part.name is c; it should be 'a' or 'b'"),
        ({**GOOD, "span": [0.9, 0.1]}, "<kwargs.span>: kwargs.span is [0.9, 0.1]; it should be [smallest, largest]"),
        ({**GOOD, "span": [0, 2]}, "<kwargs.span.1>: kwargs.span.1 is 2; it should be less than or equal to 1"),
        ({**GOOD, "span": 1}, "<kwargs.span>: kwargs.span is 1; it should be a list"),
        ({**GOOD, "x": True, "y": True}, "<kwargs>: kwargs: x and y do not go together"),
        (3, "<kwargs>: kwargs is 3; it should be a mapping with the keys part, span, x, y"),
    ],
    ids=str,
)
def test_a_misfit_is_one_sentence(content, sentence):
    assert said(content) == sentence


def test_a_far_fetched_key_is_told_what_the_owner_takes():
    assert said({**GOOD, "zzz": 1}, owner="it").endswith("unknown key 'kwargs.zzz'; it takes part, span, x, y")
    assert said({"zzz": 1}, section_of(lambda: None), owner="it").endswith("'kwargs.zzz'; it takes no options")
    assert said({**GOOD, "bsae": 1}, also_known=("base",)).endswith("did you mean 'base'?")


def test_names_and_kinds_of_a_table():
    table = {"one": 1, "kind/": lambda rest, more=0: (rest, more)}
    assert look_up(table, "one", "key") == 1
    assert look_up(table, "kind/a/b", "key")(more=2) == ("a/b", 2)
    for name in ("two", "kind/", "kin/a", "", None, "\n" * 999):
        with pytest.raises(ConfigError, match=r"^key is .*, but must be one of one, kind/NAME; is it '") as error:
            look_up(table, name, "key")
        assert len(str(error.value)) < 200


class Thing:
    @checked
    def __init__(self, part: Part, count: Annotated[int, Field(ge=1)] = 1):
        self.part, self.count = part, count


def test_a_checked_constructor_takes_plain_dicts_and_sections():
    for thing in (
        Thing(GOOD["part"]),
        Thing(part=GOOD["part"]),
        Thing(Part(share=0.5), count=1),
        Thing(GOOD["part"], 1),
    ):
        assert (thing.part.share, thing.count) == (0.5, 1)
    with pytest.raises(ConfigError, match=r"^Thing: count is 0; it should be greater than or equal to 1$"):
        Thing(GOOD["part"], 0)
    with pytest.raises(ConfigError, match=r"^Thing: unknown key 'cuont'; did you mean 'count'"):
        Thing(GOOD["part"], cuont=1)
    with pytest.raises(ConfigError, match=r"^Thing: the key 'part' is missing$"):
        Thing()
    with pytest.raises(TypeError, match="positional"):
        Thing(GOOD["part"], 1, 2)
    with pytest.raises(TypeError, match="multiple values"):
        Thing(GOOD["part"], part=GOOD["part"])


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just(10**400)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=6), inner), max_leaves=6)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(VALUES | st.dictionaries(st.sampled_from(["part", "span", "x", "share"]), VALUES))
def test_anything_is_options_or_a_sentence(content):
    try:
        options = check(SECTION, content, str)
    except ConfigError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 400
    else:
        assert 0 <= options.part.share <= 1
        assert 0 <= options.span[0] <= options.span[1] <= 1
        assert not (options.x and options.y)
