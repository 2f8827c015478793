import json

import numpy as np
import pytest

from report.edits import Clustering, Labels, to_edits
from report.round import BEGIN, keep_round, read_round, write_round
from system.files import write_text

CLUSTERING = Clustering(["a.png", "b.png"], [0, 1], ["0.5", "0.5"])
EDITS = to_edits(CLUSTERING, Labels(["</script><b>", "dog"], [False, False], []))


def page_of(tmp_path, fingerprint=CLUSTERING.fingerprint):
    path = tmp_path / "report.html"
    facts = f'<script>{{"fingerprint":"{fingerprint}"}}</script>'
    write_text(path, f"<p>é &amp; <b>\n{facts}{BEGIN}null</script>\n<i>", listed=True)
    return path


def test_a_page_is_told_and_stays_as_it_is_around_that(tmp_path):
    path = page_of(tmp_path)
    before, after = path.read_text(encoding="utf-8").split("null")
    for _ in range(2):  # a later round takes the place of an earlier one
        write_round(path, CLUSTERING, EDITS, ["</script><b>", "dog"], np.array([1, 0]), np.array([0.25, 1.0]))
        text = path.read_text(encoding="utf-8")
        assert text.startswith(before) and text.endswith(after)
        content = text[len(before) : -len(after)]
        assert "<" not in content
        found = json.loads(content)
        assert found["edits"]["names"] == {"0": "</script><b>", "1": "dog"}
        assert (found["likely"], found["sure"]) == ([1, 0], [2500, 10000])
    write_round(path, CLUSTERING, EDITS, ["dog"])
    assert json.loads(path.read_text(encoding="utf-8")[len(before) : -len(after)])["sure"] is None


@pytest.mark.parametrize("kind", ["of another clustering", "of an earlier version", "of the user"])
def test_other_pages_stay_as_they_are(tmp_path, capsys, kind):
    path = page_of(tmp_path, "0" if kind == "of another clustering" else CLUSTERING.fingerprint)
    if kind == "of an earlier version":
        write_text(path, "<p>", listed=True)
    if kind == "of the user":
        path.unlink()
        (tmp_path / "manifest.json").unlink()
        path.write_text(BEGIN)
    before = path.read_bytes()
    write_round(path, CLUSTERING, EDITS, ["dog"])
    assert path.read_bytes() == before
    assert ("does not show what is doubtful" in capsys.readouterr().err) == (kind != "of the user")


@pytest.mark.parametrize("fingerprint", [CLUSTERING.fingerprint, "0"])
def test_a_page_that_is_written_again_keeps_what_it_was_told_of_the_same_clusters(tmp_path, fingerprint):
    path = page_of(tmp_path)
    assert read_round(path) is None
    write_round(path, CLUSTERING, EDITS, ["</script><b>", "dog"], np.array([1, 0]), np.array([0.25, 1.0]))
    told, earlier = path.read_text(encoding="utf-8"), read_round(path)
    fresh = page_of(tmp_path, fingerprint).read_text(encoding="utf-8")
    keep_round(path, earlier)
    same = fingerprint == CLUSTERING.fingerprint
    assert path.read_text(encoding="utf-8") == (told if same else fresh) != (fresh if same else told)
    keep_round(path, None)
