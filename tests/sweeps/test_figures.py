"""Which run of a setting a sweep's pictures show."""

from sweeps import figures


def test_of_a_settings_runs_the_one_of_the_lowest_label_free_score_is_drawn(monkeypatch):
    results = {
        "a": {"last_loss": -1.0, "acc": 0.9},
        "b": {"last_loss": -2.0, "acc": 0.1},
        "c": None,
        "d": {"last_loss": -2.0},
    }
    monkeypatch.setattr(figures, "read_result", results.get)
    assert figures.best_run(list("abcd")) == "b" and figures.best_run(["c"]) is None
