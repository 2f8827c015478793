import torch

from training.totals import Totals


def steps(totals, values):
    """Each value as a step's loss; where it is None, the step was skipped, and its loss is 0."""
    for value in values:
        totals.add(loss=torch.tensor(value or 0.0, dtype=torch.bfloat16, requires_grad=True))
        totals.count(skipped_batches=torch.tensor(value is None), confident=torch.tensor([1, int(value is None)]))
        totals.maximum(confidence=torch.tensor(value or 0.0))
    return totals


def test_means_are_of_the_steps_that_were_taken_and_counts_are_whole():
    metrics = steps(Totals(), [1.0, None, 4.0, 2.5]).metrics(num_steps=4)
    assert metrics == {"loss": 2.5, "skipped_batches": 1, "confident": [4, 1]}
    assert steps(Totals(), [None, None]).metrics(num_steps=2)["loss"] == 0


def test_a_count_and_a_maximum_can_be_read():
    totals = steps(Totals(), [1.0, None, 4.0, 2.5])
    assert totals.read("confident") == 5 and totals.read("confidence") == 4 and totals.read("nothing") == 0


def test_totals_go_on_from_where_they_were():
    first, second = steps(Totals(), [1.0, 3.0]), Totals()
    state = {name: dict(values) for name, values in first.state_dict().items()}
    second.load_state_dict(state, torch.device("cpu"))
    assert steps(second, [None, 0.5]).metrics(4) == steps(Totals(), [1.0, 3.0, None, 0.5]).metrics(4)
    assert second.read("confidence") == 3
    assert state["counts"]["skipped_batches"] == 0  # what was loaded stays as it was
