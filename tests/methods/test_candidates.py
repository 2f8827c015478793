import pytest
import torch

from clustering.candidate import Candidate, predict
from clustering.scores import score_clusters
from methods.candidates import make_candidates
from models.heads import build_head, describe_head
from tests.methods.test_methods import QUICK, blobs


@pytest.mark.parametrize("num_spaces", [1, 2])
def test_every_candidate_is_a_head_that_can_be_saved(num_spaces):
    x, truth = blobs()
    spaces = [x, 3 + x[:, :12]][:num_spaces]
    said: list[str] = []
    quick = {method.fit: options for method, options in QUICK.items()}
    found, whole, neighbors = make_candidates(spaces, 4, say=said.append, options=quick, names=["one", "two"])
    assert said == [candidate.name for candidate in found]
    assert ("spectral on two" in said) is (num_spaces == 2)
    assert len(set(said)) == len(said) == (8 if num_spaces == 1 else 12)
    assert whole.shape == (len(x), sum(space.shape[1] for space in spaces))
    assert torch.equal(neighbors[:, 0], torch.arange(len(x)))
    for candidate in found:
        assert isinstance(candidate, Candidate)
        again = build_head(**describe_head(candidate.head))
        again.load_state_dict(candidate.head.state_dict())
        assert torch.equal(predict(again, whole).argmax(1), candidate.clusters[candidate.best])
    assert score_clusters(found[-1].clusters[0], truth, 4, 4)["acc"] > 0.95
