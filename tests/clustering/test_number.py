"""The choice of a number of clusters from curves: closed forms, and curves drawn by hand."""

import numpy as np
import pytest
import torch

from clustering.number import (
    Point,
    around,
    check_range,
    choose,
    find_peaks,
    grid,
    lead,
    mean_agreement,
    search,
    silhouette,
)
from system.errors import ConfigError

SURE = 0.05


def curve(silhouettes, agreement=0.9, first=2):
    return [Point(first + i, agreement, value, 0.9) for i, value in enumerate(silhouettes)]


def test_a_grid_rises_by_a_factor_and_holds_both_ends():
    assert grid(2, 50) == [2, 3, 4, 5, 7, 10, 14, 19, 26, 36, 50]
    assert grid(2, 4) == [2, 3, 4]
    assert grid(7, 7) == [7]


def test_around_are_the_numbers_between_both_neighbors():
    assert around([2, 5, 8], 5) == [3, 4, 6, 7]
    assert around([2, 5, 8], 8) == [6, 7]
    assert around([2, 3, 4], 3) == []


def test_ends_are_no_peaks_and_the_best_peak_is_first():
    assert find_peaks([0.9, 0.1, 0.5, 0.2, 0.6, 0.6, 0.1]) == [4, 5, 2]
    assert find_peaks([0.1, 0.2]) == []


def test_silhouette_by_hand():
    """Two pairs on a line, at 0, 1 and 10, 11: a = 1 for all; b = 10.5 for the outer two, 9.5 for the inner two."""
    points, clusters = np.array([[0.0], [1.0], [10.0], [11.0]]), torch.tensor([0, 0, 1, 1])
    assert silhouette(points, clusters) == pytest.approx((2 * (1 - 1 / 10.5) + 2 * (1 - 1 / 9.5)) / 4)
    assert silhouette(points, torch.zeros(4, dtype=torch.int64)) == -1


def test_agreement_is_the_mean_over_pairs():
    """Two equal clusterings and one whose pairs cut across them: 1, and twice the index of a table of ones, -1/2."""
    one, across = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    assert mean_agreement([one, 1 - one, across], 2) == pytest.approx((1 - 0.5 - 0.5) / 3)


def test_the_best_peak_is_chosen_and_others_are_told():
    found = choose(curve([0.3, 0.4, 0.5, 0.49, 0.42, 0.43, 0.3, 0.42, 0.2]), 2, 10, SURE)
    assert (found.num_clusters, found.runner_up, found.sure) == (4, 7, True)
    assert (found.low, found.high) == (4, 5) and found.peaks == [4, 7, 9]
    assert found.sentence == (
        "4 clusters: the images form well-separated groups; any from 4 to 5 is nearly as good; the next best "
        "number is 7; there are groups within groups, also at 9"
    )


@pytest.mark.parametrize(
    ("points", "num_clusters"),
    [
        (curve([0.3, 0.43, 0.45, 0.44, 0.44, 0.43, 0.2]), 4),  # a flat peak: 3 to 7 are nearly as good
        (curve([0.1, 0.2, 0.6, 0.2, 0.2, 0.56, 0.1]), 4),  # 7 is far, and hardly worse
        (curve([0.9, 0.8, 0.7, 0.6]), 3),  # none
        (curve([0.5, 0.6, 0.7, 0.8]), 5),
        (curve([0.4, 0.58, 0.581, 0.57, 0.56, 0.55, 0.51]), 4),  # more clusters are hardly worse
        (curve([0.7, 0.64, 0.5, 0.55, 0.2]), 3),  # the best one, though 5 is the peak
    ],
)
def test_where_no_peak_stands_out_the_answer_is_not_sure(points, num_clusters):
    found = choose(points, 2, 9, SURE)
    assert (found.num_clusters, found.sure) == (num_clusters, False)
    assert found.low <= num_clusters <= found.high and found.low < found.high
    assert "groups within groups" not in found.sentence
    assert found.sentence.startswith("not sure: ") and f"; {num_clusters} is taken" in found.sentence


def test_a_far_peak_is_not_named_as_the_next_best():
    found = choose(curve([0.3, 0.2, 0.6, 0.2, 0.4, 0.2]), 2, 7, SURE)
    assert (found.num_clusters, found.runner_up, found.peaks) == (4, 6, [4])
    assert found.sentence == "4 clusters: the images form well-separated groups"


def test_two_are_taken_where_they_are_far_better_than_every_other_number():
    assert choose(curve([0.9, 0.64, 0.6, 0.55]), 2, 4, SURE)[:5] == (2, None, 2, 2, True)
    assert choose(curve([0.9, 0.66, 0.6, 0.55]), 2, 4, SURE)[:5] == (3, None, 2, 3, False)
    assert choose(curve([0.9, 0.64, 0.6, 0.55]), 3, 4, SURE).num_clusters == 3


def test_numbers_within_a_factor_of_one_and_a_half_may_be_as_good():
    assert choose(curve([0.1, 0.1, 0.5, 0.51, 0.5, 0.1, 0.08, 0.05]), 2, 8, SURE)[:5] == (5, None, 4, 6, True)
    assert choose(curve([0.1, 0.1, 0.5, 0.51, 0.5, 0.1, 0.5, 0.1]), 2, 8, SURE)[:5] == (5, 8, 4, 8, False)


def test_a_lead_is_over_the_best_number_that_is_far_on_either_side():
    """From 6 the numbers above 9 and below 4 are far: 3 is .2 lower, or 10 is .1 lower; agreement counts a tenth."""
    heights = {2: 0.1, 3: 0.4, 4: 0.6, 6: 0.6, 9: 0.6, 10: 0.3, 14: 0.2}
    points = [Point(k, 0.5, value, 0.9) for k, value in heights.items()]
    assert lead(points, 3) == pytest.approx(0.2)
    points[5] = Point(10, 1.0, 0.45, 0.9)  # its height is .45 + .1
    assert lead(points, 3) == pytest.approx(0.65 - 0.55)
    assert lead(points[:5], 3) == 0  # nothing larger is far: 9 counts
    assert lead(points[:4], 3) == -1


def test_agreement_decides_between_peaks_that_are_nearly_equal():
    """Its weight is a tenth: .9 against .1 is worth .08 of silhouette."""
    for second, chosen in ((0.57, 3), (0.59, 5)):
        points = [
            Point(k, agreement, s, 1.0)
            for k, agreement, s in [(2, 0, 0), (3, 0.9, 0.5), (4, 0, 0), (5, 0.1, second), (6, 0, 0)]
        ]
        assert choose(points, 2, 6, SURE).num_clusters == chosen


@pytest.mark.parametrize("true", [3, 11, 24])
def test_search_finds_a_peak_between_the_numbers_of_the_grid(true):
    asked = []

    def measure(number):
        asked.append(number)
        return Point(number, 0.9, 1 - abs(np.log(number / true)), 0.9)

    points = search(measure, 2, 50)
    assert choose(points, 2, 50, SURE).num_clusters == true
    assert len(asked) == len(set(asked)) < 30
    assert [point.num_clusters for point in points] == sorted(asked)


def test_nothing_outside_the_range_is_chosen_or_told():
    points = curve([0.9, 0.5, 0.6, 0.8, 0.7, 0.85])  # 2 to 7
    assert choose(points, 3, 6, SURE)[:5] == (5, None, 4, 6, False)
    assert choose(points, 2, 4, SURE)[:5] == (4, None, 2, 4, False)
    assert choose(points, 6, 6, SURE)[:5] == (6, None, 6, 6, False)
    assert choose(curve([0.9]), 2, 2, SURE)[:5] == (2, None, 2, 2, False)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (9, 5, "begins at 9 and ends at 5"),
        (1, 5, "begins at 1, but grouping needs at least 2"),
        (2, 41, "ends at 41, but 200 images can be asked for at most 40 clusters"),
        (50, None, "begins at 50, and without an end it goes to 50; give its end too"),
        (10, None, "200 images are too few to look for a number from 10 on; give the number itself, or also the end"),
    ],
)
def test_a_range_that_makes_no_sense_is_one_sentence(low, high, words):
    with pytest.raises(ConfigError, match=words):
        check_range(low, high, 200, "auto:LO-HI")


def test_too_few_images_for_any_number():
    with pytest.raises(ConfigError, match="9 images are too few"):
        check_range(2, 3, 9, "auto:LO-HI")


@pytest.mark.parametrize(("num_images", "high"), [(10_000, 50), (400, 20), (60, 3)])
def test_the_largest_number_is_a_20th_of_the_images_and_at_most_50(num_images, high):
    assert check_range(2, None, num_images, "auto") == (2, high)
