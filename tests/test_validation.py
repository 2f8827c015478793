"""What is told of a clustering stage while it trains."""

import pytest
import torch

from utils.validation import warn_of_collapse


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([0, 90, 0], "100 % of the validation images are in one cluster: training has collapsed"),
        ([1, 99, 0, 0], "99 % of the validation images are in one cluster: training has collapsed"),
        ([30, 0, 30, 0], "2 of 4 clusters are empty"),
        ([94, 4, 1, 1], "very unequal size"),
        ([30, 20, 10], ""),
        ([1, 1, 0, 0], ""),
        ([5], ""),
    ],
)
def test_collapse_is_told_in_plain_words(capsys, sizes, words):
    warn_of_collapse(torch.tensor(sizes), len(sizes))
    said = capsys.readouterr().err
    assert words in said
    assert bool(said) == bool(words)
