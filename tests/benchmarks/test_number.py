"""The evidence for the number of clusters: what is counted of cases, and which threshold is fixed by which."""

import json

from benchmarks import common, number


def case(data, first, num_classes, found, fall, acc=90.0):
    """Images whose silhouette falls from `found` to both sides, at 5 to a lead of 1.2 times `fall`, above to 1.3."""
    points = [[k, 0.9, 0.6 - fall * (k != found) * (1 + 0.1 * abs(k - found)), 0.9] for k in range(2, 22)]
    return {
        "data": data,
        "number": first,
        "networks": ["x"],
        "num_classes": num_classes,
        "unequal": False,
        "num_images": 400,
        "acc": [acc],
        "points": points,
    }


CASES = [
    case("digits", 1, 5, 5, 0.3),
    case("digits", 2, 5, 6, 0.2),
    case("mnist", 1, 5, 7, 0.14),  # wrong by 2
    case("mnist", 2, 8, 8, 0.05, acc=60.0),
]


def test_what_is_counted_of_cases():
    assert number.figures(CASES, [0.1, 0.27, 0.1, 0.01]) == {
        "num_cases": 4,
        "within_1": 3,
        "exact": 2,
        "in_range": 2 + 1,
        "sure": 3,
        "sure_and_within_1": 2,
        "good": 3,
        "sure_where_good": 2,
    }


def test_the_lowest_lead_counts_from_which_enough_of_the_sure_are_right():
    assert number.best_lead(CASES) == 0.185  # from .18 and less one in three or four is wrong
    assert number.best_lead(CASES[:2]) == 0
    assert number.best_lead(CASES[3:]) == 0


def test_each_data_set_has_its_lead_from_the_others():
    found = number.summarize(CASES)["held_out"]
    assert found["mnist"]["sure_from"] == 0 and found["mnist"]["sure_and_within_1"] == 1 == found["mnist"]["sure"] - 1
    assert found["digits"]["sure_from"] == 0.185  # of the other two one is wrong, so that none may be sure


def test_nothing_sure_meets_nothing():
    assert not number.meets(number.figures(CASES, [0.99] * 4))


def test_the_summary_is_that_of_the_cases_and_the_shipped_lead_that_of_the_seen_ones():
    result = json.loads((common.RESULTS / "number.json").read_text(encoding="utf-8"))
    assert result["summary"] == json.loads(json.dumps(number.summarize(result["cases"])))
    assert number.best_lead([one for one in result["cases"] if one["number"] <= number.SEEN]) == number.SURE
