import torch

from clustering.candidate import Embedding, make_candidate, predict
from clustering.scores import score_clusters
from clustering.vote import vote
from methods import kmeans_heads
from models.heads import LinearHead
from tests.methods.test_methods import blobs


def permuted(head, order):
    other = LinearHead(head.dims, head.num_clusters)
    other.load_state_dict({key: value[order] for key, value in head.state_dict().items()})
    return other


def test_a_vote_of_permuted_heads_is_the_head():
    torch.manual_seed(0)
    x, head = torch.randn(200, 6), LinearHead([6], 4)
    heads = [head, *(permuted(head, torch.randperm(4)) for _ in range(3))]
    found = vote([make_candidate(f"{i}", [one], [0.0], x) for i, one in enumerate(heads)], x, 4)
    expected = predict(head, x)
    order = [int(expected[:, c].sub(predict(found.head, x).T).abs().sum(1).argmin()) for c in range(4)]
    assert sorted(order) == [0, 1, 2, 3]
    assert torch.allclose(predict(found.head, x)[:, order], expected, atol=1e-5)
    assert found.losses == [-1.0]


def test_one_collapsed_head_does_not_carry_a_vote():
    x, truth = blobs()
    good = [kmeans_heads.fit(Embedding(x), 4, seed, name=str(seed)) for seed in range(3)]
    collapsed = LinearHead([20], 4)
    with torch.no_grad():
        collapsed.weight.zero_()
        collapsed.bias.copy_(torch.tensor([9.0, 0, 0, 0]))
    found = vote([*good, make_candidate("collapsed", [collapsed], [0.0], x)], x, 4)
    assert score_clusters(found.clusters[0], truth, 4, 4)["acc"] > 0.95
