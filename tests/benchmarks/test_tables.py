import json

import pytest

from benchmarks import tables

RESULTS = tables.RESULTS
MARKED = "before\n<!-- table:digits -->\nold\n<!-- end -->\nbetween\n<!-- table:digits -->\n<!-- end -->\nafter\n"


@pytest.fixture
def results(tmp_path):
    score = {"mean": 0.98349, "std": 0.0031, "values": [0.98, 0.99]}
    result = {
        "num_test_images": 360,
        "seeds": [0, 1],
        "rows": {"scan": {"title": "SCAN", "acc": score, "nmi": score, "ari": score}},
        "seconds": {"pretext": {"mean": 20.4, "std": 1, "values": [20.4]}},
        "machine": {"cpu": "a CPU", "threads": 1, "cores": 2, "commit": "abc", "versions": {"torch": "2.0"}},
    }
    (tmp_path / "digits.json").write_text(json.dumps(result))
    return tmp_path


def test_fills_every_marked_table_and_nothing_else(results):
    filled = tables.fill(MARKED, results)
    assert filled.count("| SCAN | 98.3 ± 0.3 | 98.3 ± 0.3 | 98.3 ± 0.3 |\n") == 2
    assert "old" not in filled
    assert filled.startswith("before\n<!-- table:digits -->\n") and filled.endswith("<!-- end -->\nafter\n")
    assert "\nbetween\n" in filled
    assert tables.fill(filled, results) == filled


def test_check_changes_nothing_and_tells_by_its_exit_code(results):
    path = results / "page.md"
    words = [str(path), "--results", str(results)]
    path.write_text(MARKED)
    assert tables.main([*words, "--check"]) == 1
    assert path.read_text() == MARKED
    assert tables.main(words) == 0
    assert tables.main([*words, "--check"]) == 0


def test_an_unknown_table_is_an_error():
    with pytest.raises(KeyError):
        tables.fill("<!-- table:nothing -->\n<!-- end -->\n")


def test_readme_tells_the_committed_results():
    assert tables.main(["--check"]) == 0
