import json
import re

import pytest

from benchmarks import recipe_tables, tables
from benchmarks.markdown import telling

MARKED = "before\n<!-- table:digits -->\nold\n<!-- end -->\nbetween\n<!-- table:digits -->\n<!-- end -->\nafter\n"


@pytest.fixture
def results(tmp_path):
    score = {"mean": 0.98349, "std": 0.0031, "values": [0.98, 0.99]}
    result = {
        "num_test_images": 360,
        "seeds": [0, 1],
        "rows": {"scan": {"title": "SCAN", "acc": score, "nmi": score, "ari": score}},
        "seconds": {"pretext": {"mean": 20.4, "std": 1, "values": [20.4]}},
        "machine": {
            "cpu": "a CPU",
            "device": "cpu, 1 threads",
            "threads": 1,
            "cores": 2,
            "commit": "abc",
            "versions": {"torch": "2.0"},
        },
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


def test_check_changes_nothing_and_says_by_its_exit_code(tmp_path, results):
    path = tmp_path / "page.md"
    path.write_text(MARKED)
    words = [str(path), "--results", str(results)]
    assert tables.main([*words, "--check"]) == 1
    assert path.read_text() == MARKED
    assert tables.main(words) == 0
    assert tables.main([*words, "--check"]) == 0


def test_an_unknown_table_is_an_error():
    with pytest.raises(KeyError):
        tables.fill("<!-- table:nothing -->\n<!-- end -->\n")


def test_the_pages_show_the_committed_results():
    assert tables.main(["--check"]) == 0


def test_every_table_is_on_a_page():
    shown = "".join(page.read_text(encoding="utf-8") for page in tables.PAGES)
    for name in tables.TABLES:
        assert re.search(rf"<!-- table:{name} -->\n(\| |Not measured yet)", shown), name


def test_a_line_names_the_device_and_changes_that_are_not_in_the_commit():
    machine = {"device": "GPU X", "cpu": "a CPU", "threads": 1, "cores": 2, "versions": {"torch": "2.0"}}
    assert tables.where(machine | {"commit": "abc"}) == "GPU X, torch 2.0, commit abc"
    assert tables.where(machine | {"commit": "abc-dirty"}).endswith("commit abc with uncommitted changes")
    assert tables.where(machine | {"device": "cpu, 1 threads", "commit": "abc"}).startswith("a CPU, 1 of 2 cores, ")


def test_words_that_only_name_folders_are_not_told():
    words = ["root_dir=/x", "scan.run_name=a", "selflabel.scan_run=b", "scan.pretext_run=c", "scan.epochs=8"]
    assert telling(words) == ["scan.epochs=8"]


def test_failed_checks_and_what_kills_left_are_shown():
    machine = {"device": "GPU X", "commit": "abc", "versions": {"torch": "2.0"}}
    results = {
        "gpu-smoke.json": {
            "machine": machine,
            "checks": {"one": {"passed": True}, "two": {"passed": False, "error": "AssertionError: 0.123456 apart"}},
        },
        "crash.json": {
            "machine": machine,
            "kills": 5,
            "kills_by_stage": {"scan": 5},
            "stray_files": ["a"],
            "files_differing_from_the_reference": [],
            "failed": ["b", "c"],
            "seconds_lost_per_kill": {"median": 0.5, "max": 2.0},
            "seconds_between_checkpoints": 0.3,
            "bit_flips": {"flips": 9, "noticed": 8},
            "writing_a_checkpoint": {"mib": 85.2, "seconds": {"median": 0.25}},
            "commands": {
                "machine": machine,
                "kills": 7,
                "kills_by_command": {"cache": 3, "sweep.py": 4},
                "orphans": ["p"],
                "orphans_after_seconds": 5.0,
                "stray_files": [],
                "files_differing_from_the_reference": ["x", "y", "z"],
                "failed": [],
            },
        },
    }
    smoke, crash = recipe_tables.gpu_smoke(results.__getitem__), tables.crash(results.__getitem__)
    assert "| one | passed |\n| two | failed: 0.123 apart |\n" in smoke and "\n1 of 2 checks passed." in smoke
    assert "| stages: scan 5 | 5 | not counted | 1 | 0 | 2 |\n" in crash
    assert "| commands: cache 3, sweep.py 4 | 7 | 1 | 0 | 3 | 0 |\n" in crash
    assert "Flipped bits noticed: 8 of 9." in crash


def test_features_that_were_not_measured_say_how_to(results):
    marked = "<!-- table:features -->\n<!-- end -->\n"
    assert "Not measured yet: `python -m benchmarks.features --json" in tables.fill(marked, results)
    names = ("ours", "onnxruntime", "torch fp32", "torch bf16", "pixels")
    rates = {name: {"median": 100.0 * number} for number, name in enumerate(names, 1)}
    row = {"backbone": "net", "side": 64, "choice": {"library": "torch", "precision": "bf16"}}
    row |= {"images_per_second": rates, "ratio_to_onnxruntime": {"ours": 0.5}, "lowest_cosine": {"ours": 0.99951}}
    machine = json.loads((results / "digits.json").read_text())["machine"]
    (results / "features.json").write_text(json.dumps({"machine": machine, "repeats": 15, "results": [row]}))
    filled = tables.fill(marked, results)
    assert "| net at 64: torch bf16 | 100 | 200 | 300 | 400 | 500 | 0.5× | 0.9995 |" in filled


@pytest.mark.parametrize("end", ["", "its note <!-- end -->\n"])
def test_a_table_without_its_end_on_a_line_of_its_own_is_refused(end):
    with pytest.raises(ValueError, match="lacks one of its markers"):
        tables.fill(f"<!-- table:digits -->\n{end}")
