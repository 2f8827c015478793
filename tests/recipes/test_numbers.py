import argparse

import pytest

from recipes.numbers import parse_numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("5", [5]),
        ("5,8,10-14", [5, 8, 10, 11, 12, 13, 14]),
        ("8, 5,5", [5, 8]),
        ("3-3", [3]),
        ("2-5,4-6", [2, 3, 4, 5, 6]),
        ("200000", [200_000]),
    ],
)
def test_numbers_and_ranges_are_ascending_and_once(text, numbers):
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("5,,8", "nothing between two commas"),
        ("5,", "nothing between two commas"),
        ("8-5", "runs downwards; give 5-8"),
        ("1", "at least 2 clusters"),
        ("0-4", "at least 2 clusters"),
        ("-3", "not a number of clusters"),
        ("5-", "not a number of clusters"),
        ("ten", "not a number of clusters"),
        ("5.5", "not a number of clusters"),
        ("²", "not a number of clusters"),
        ("2-2000000000", "not a number of clusters"),
        ("2-200000000", "more than 100 numbers"),
    ],
)
def test_anything_else_gets_its_sentence(text, sentence):
    with pytest.raises(argparse.ArgumentTypeError, match=sentence):
        parse_numbers(text)
