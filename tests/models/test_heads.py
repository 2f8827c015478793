import pytest
import torch
from torch.nn import functional

from models.heads import HEADS, KMeansHead, LinearHead, TEMIHead, TURTLEHead, VoteHead, build_head, describe_head
from system.errors import ConfigError


def build(name, dims=(5, 3), first=2):
    members = [{"head": "linear", "dims": [4], "num_clusters": 3, "first": 1}] * 2
    extra = {"heads": members} if name == "vote" else {"hidden": 8, "bottleneck": 4} if name == "temi" else {}
    return build_head(name, dims=list(dims), num_clusters=3, first=first, **extra)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_built_anew_from_what_describes_it(name):
    head, x = build(name), torch.randn(6, 12)
    for values in head.state_dict().values():  # buffers too must travel in the state dict
        if values.is_floating_point():
            values.add_(torch.rand(values.shape))
    again = build_head(**describe_head(head))
    assert not torch.allclose(again(x), head(x))
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(x), head(x))
    assert head(x).shape == (6, 3)


@pytest.mark.parametrize("name", ["linear", "kmeans", "temi", "turtle"])
def test_a_head_reads_its_own_columns_alone(name):
    head, x = build(name), torch.randn(6, 12)
    with torch.no_grad():
        for values in head.state_dict().values():
            values.add_(torch.rand(values.shape))
    other = x.clone()
    other[:, :2], other[:, 10:] = 99, 99
    assert torch.equal(head(other), head(x))
    other[:, 2:10] += torch.randn(6, 8)
    assert not torch.allclose(head(other), head(x))


def test_the_linear_head_has_the_keys_of_a_linear_layer():
    linear, x = torch.nn.Linear(4, 3), torch.randn(5, 4)
    head = LinearHead([4], 3)
    head.load_state_dict(linear.state_dict())
    assert torch.equal(head(x), linear(x))


@pytest.mark.parametrize("kind", [KMeansHead, TEMIHead])
def test_lengths_of_features_do_not_matter_where_they_are_normalized(kind):
    head, x = kind([4], 3), torch.randn(5, 4)
    if kind is KMeansHead:
        head.weight.normal_()
    assert torch.allclose(head(7 * x), head(x), atol=1e-5)


def test_each_space_weighs_the_same():
    x = torch.randn(5, 8)
    unit = KMeansHead([5, 3], 3).unit(x)
    assert torch.allclose(unit[:, :5].norm(dim=1), torch.full((5,), 0.5**0.5))
    assert torch.allclose(unit.norm(dim=1), torch.ones(5))


def test_turtle_is_the_mean_probability_of_its_spaces():
    head, x = TURTLEHead([4, 2], 3), torch.randn(5, 6)
    head.mean.normal_()
    head.std.uniform_(0.5, 2)
    z = (x - head.mean) / head.std
    expected = (functional.softmax(head.layers[0](z[:, :4]), 1) + functional.softmax(head.layers[1](z[:, 4:]), 1)) / 2
    assert torch.allclose(head(x).softmax(1), expected, atol=1e-6)
    assert torch.allclose(head(x).exp().sum(1), torch.ones(5))


def test_a_vote_of_permuted_heads_is_the_head():
    one, x = LinearHead([4], 3), torch.randn(20, 4)
    vote = VoteHead([4], 3, heads=[describe_head(one)] * 3)
    for member, order in zip(vote.members, torch.tensor([[0, 1, 2], [2, 0, 1], [1, 0, 2]]), strict=True):
        member.load_state_dict({key: value[order] for key, value in one.state_dict().items()})
    vote.order.copy_(torch.tensor([[0, 1, 2], [1, 2, 0], [1, 0, 2]]))  # where each cluster went
    assert torch.allclose(vote(x).softmax(1), one(x).softmax(1), atol=1e-6)
    vote.order.copy_(torch.arange(3).repeat(3, 1))
    assert not torch.allclose(vote(x).softmax(1), one(x).softmax(1), atol=1e-2)


def test_what_is_no_head_is_told():
    with pytest.raises(ConfigError, match="choose one of linear, kmeans"):
        build_head("knn", dims=[3], num_clusters=2)
    with pytest.raises(ConfigError, match="at least one head"):
        VoteHead([3], 2)
    with pytest.raises(ConfigError, match="a head needs a cluster"):
        LinearHead([3], 0)
