"""The demo, with stages that take a second."""

import json

import pytest

import demo
from tests import stage as stages


@pytest.mark.usefixtures("signals", "empty_pictures")
def test_the_demo_sums_up_what_its_stages_and_baselines_found(tmp_path, capsys):
    words = [f"root_dir={tmp_path}", *stages.TINY, *stages.few_digits(96, 48), "num_mined_train=8", "num_neighbors=5"]
    assert demo.main([*words, "confidence_threshold=0.15"]) == 0
    rows = json.loads((tmp_path / "digits/summary.json").read_text())
    assert list(rows) == [*demo.ROWS, "selflabel-best", "chosen"]
    for name in ("scan", "selflabel"):
        result = json.loads((tmp_path / "digits" / name / "run.json").read_text())["result"]
        assert rows[name] == {key: round(result[key], 6) for key in demo.METRICS}
    assert rows["chosen"] in [rows[name] for name in ("scan", "selflabel", "selflabel-best")]
    said = capsys.readouterr().out
    for name, title in demo.ROWS.items():
        (line,) = (line for line in said.splitlines() if line.startswith(f"  {title:<48}"))
        shown = [float(word) for word in line.replace("%", "").split()[-3:]]
        assert shown == [round(100 * rows[name][key], 1) for key in demo.METRICS]
