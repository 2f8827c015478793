"""Neighbors against brute force in float64, with duplicates, ties, zeros and every way to search."""

import importlib.util
import math
import sys
from collections import Counter

import faiss
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import clustering.mining
from clustering.neighbors import limit_neighbors, load_neighbors, mine_neighbors, purity, save_neighbors, weighted_knn
from system.errors import UserError
from tests.processes import finish


@pytest.fixture(params=["faiss", "torch", "torch after bf16"])
def way(request):
    """A backend, as on a machine that multiplies bfloat16 fast or does not, whatever this one does."""
    name, _, low = request.param.partition(" after ")
    return {"backend": name, "by_bf16": bool(low)}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brute_force(features, k):
    """Sort all pairs in float64, one row at a time; products are rounded so that equal pairs are equal."""
    x = np.asarray(features, dtype=np.float64)
    norms = np.sqrt((x**2).sum(1, keepdims=True))
    x = x / np.where(norms > 0, norms, 1)
    rows = []
    for i in range(len(x)):
        similarity = np.round([math.fsum(x[i] * x[j]) for j in range(len(x))], 12)
        others = sorted((j for j in range(len(x)) if j != i), key=lambda j, s=similarity: (-s[j], j))
        rows.append([i, *others[:k]])
    return np.array(rows)


def with_duplicates():
    """Groups of 1, 2, 3, 12 and 40 equal rows in mixed order: more than the candidates beyond k."""
    distinct = normal(12, 6)
    copies = [1, 2, 3, 12, 40, 1, 1, 1, 1, 1, 1, 1]
    rows = torch.arange(12).repeat_interleave(torch.tensor(copies))
    return distinct[rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))]]


CASES = {
    "distinct": normal(90, 16),
    "clustered": normal(8, 16).repeat(10, 1) + 1e-4 * normal(80, 16, seed=1),
    "collapsed": torch.ones(60, 16) + 1e-3 * normal(60, 16, seed=1),
    "duplicates": with_duplicates(),
    "all equal": torch.ones(50, 3),
    "all zero": torch.zeros(40, 4),
    "some zero": torch.cat([normal(20, 2), torch.zeros(20, 2), normal(20, 2, seed=1)]),
    "one dimension": torch.tensor([[1.0], [-2.0], [3.0], [-4.0], [0.0]] * 6),
    "huge and tiny": normal(60, 8) * 10.0 ** torch.arange(-20, 20, 40 / 60).unsqueeze(1),
}


@pytest.mark.parametrize("case", CASES)
def test_mining_is_brute_force(case, way):
    expected = brute_force(CASES[case], 20)
    for k in (1, 5, 20):
        assert np.array_equal(mine_neighbors(CASES[case], k, **way), expected[:, : k + 1])


def test_four_points_by_hand(way):
    """At 0, 10, 30 and 90 degrees; lengths do not matter."""
    angles = torch.deg2rad(torch.tensor([0.0, 10, 30, 90]))
    points = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([[1.0], [5], [0.1], [2]])
    expected = [[0, 1, 2, 3], [1, 0, 2, 3], [2, 1, 0, 3], [3, 2, 1, 0]]
    assert mine_neighbors(points, 3, **way).tolist() == expected


@pytest.mark.parametrize("case", ["distinct", "collapsed", "duplicates", "some zero"])
def test_blocks_and_memory_maps_change_nothing(case, way, tmp_path):
    features = CASES[case]
    expected = mine_neighbors(features, 7, **way)
    np.save(tmp_path / "features.npy", features.numpy())
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    for budget in (1, 20_000, 60_000):
        assert np.array_equal(mine_neighbors(features, 7, **way, budget_bytes=budget), expected)
        assert np.array_equal(mine_neighbors(mapped, 7, **way, budget_bytes=budget), expected)


def test_shares_of_the_rows_join_to_the_whole(way):
    features = CASES["duplicates"]
    shares = [range(0, 22), range(22, 43), range(43, 64), range(64, len(features))]
    parts = [mine_neighbors(features, 4, **way, rows=rows) for rows in shares]
    assert np.array_equal(np.concatenate(parts), mine_neighbors(features, 4, **way))
    assert mine_neighbors(features, 4, **way, rows=range(5, 5)).shape == (0, 5)


class Products(TorchDispatchMode):
    """Counts, for every precision, the rows that are multiplied by a matrix."""

    def __init__(self):
        super().__init__()
        self.rows = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.mm.default, torch.ops.aten.mm.out):
            self.rows[args[0].dtype] += len(args[0])
        return function(*args, **(kwargs or {}))


def test_float32_alone_would_be_wrong():
    """The float64 search really runs where float32 proves nothing, and only there."""
    with Products() as products:
        mine_neighbors(CASES["distinct"], 5, "torch", by_bf16=False)
    assert products.rows == {torch.float32: len(CASES["distinct"])}
    with Products() as products:
        mine_neighbors(CASES["collapsed"], 5, "torch", by_bf16=False)
    assert products.rows[torch.float64] > 30


def test_bfloat16_hands_on_what_it_cannot_prove():
    """90 points on a circle, 4 degrees apart or 10^-4 of that: bfloat16 distinguishes the former, not the latter."""
    for step, handed_on in ((4, 0), (4e-4, 90)):
        angles = torch.deg2rad(step * torch.arange(90, dtype=torch.float64))
        with Products() as products:
            neighbors = mine_neighbors(torch.stack([angles.cos(), angles.sin()], 1), 2, "torch", by_bf16=True)
        assert products.rows[torch.bfloat16] == 90
        assert products.rows[torch.float32] == handed_on
        assert all(set(neighbors[i].tolist()) == {i - 1, i, i + 1} for i in range(1, 89))


@pytest.mark.parametrize("num_columns", [3, 40, 16 * 12, 16 * 13, 16 * 40 + 7])
def test_the_largest_of_groups_are_the_largest(num_columns):
    scores = normal(30, num_columns).round(decimals=1)  # with ties
    largest, columns = clustering.mining._largest(scores, 3)
    assert torch.equal(largest, scores.sort(dim=1, descending=True).values[:, :3])
    assert torch.equal(scores.gather(1, columns), largest)
    assert all(len(set(row)) == 3 for row in columns.tolist())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions(dtype, way):
    features = normal(60, 8).to(dtype)
    before = features.clone()
    assert np.array_equal(mine_neighbors(features, 6, **way), brute_force(features, 6))
    assert torch.equal(features, before)


def test_auto_works_without_faiss(monkeypatch):
    expected = mine_neighbors(CASES["distinct"], 3)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert np.array_equal(mine_neighbors(CASES["distinct"], 3), expected)
    with pytest.raises(UserError, match="pip install faiss"):
        mine_neighbors(CASES["distinct"], 3, "faiss")


def test_auto_does_without_faiss_on_macos_where_two_openmps_collide(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("faiss was asked")

    expected = mine_neighbors(CASES["distinct"], 3, by_bf16=False)
    monkeypatch.setattr(faiss, "knn", fail)
    with pytest.raises(AssertionError, match="faiss was asked"):
        mine_neighbors(CASES["distinct"], 3, by_bf16=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert np.array_equal(mine_neighbors(CASES["distinct"], 3, by_bf16=False), expected)


def test_mining_refuses_what_it_cannot_do():
    with pytest.raises(UserError, match="cannot mine 5 neighbors among 5 images"):
        mine_neighbors(normal(5, 2), 5)
    broken = normal(9, 2)
    broken[4, 1] = torch.nan
    with pytest.raises(UserError, match="image 4 hold NaN"):
        mine_neighbors(broken, 2)
    with pytest.raises(UserError, match="neighbors=annoy"):
        mine_neighbors(normal(5, 2), 2, "annoy")


INDICES = brute_force(normal(30, 4), 6)


def test_files_come_back(tmp_path):
    save_neighbors(tmp_path / "n.npy", INDICES, "abc")
    loaded = load_neighbors(tmp_path / "n.npy", 30, 4, "abc")
    assert loaded.dtype == np.int64 and np.array_equal(loaded, INDICES[:, :5])
    assert np.array_equal(np.load(tmp_path / "n.npy"), INDICES)


def test_published_files_load_with_a_word(tmp_path, capsys):
    np.save(tmp_path / "n.npy", INDICES.astype(np.int32))
    loaded = load_neighbors(tmp_path / "n.npy", 30, 6, "abc")
    assert loaded.dtype == np.int64 and np.array_equal(loaded, INDICES)
    assert "no record" in capsys.readouterr().out


def test_duplicates_of_published_files_are_put_in_order(tmp_path, capsys):
    swapped = INDICES.copy()
    swapped[3, :2] = INDICES[3, 1::-1]  # a duplicate first, the image itself second
    np.save(tmp_path / "n.npy", swapped)
    assert np.array_equal(load_neighbors(tmp_path / "n.npy", 30, 6), INDICES)
    lost = INDICES.copy()
    lost[3] = [*INDICES[3, 1:], 29 if 29 not in INDICES[3] else 28]  # so many duplicates that it is not named
    np.save(tmp_path / "n.npy", lost)
    assert np.array_equal(load_neighbors(tmp_path / "n.npy", 30, 6), INDICES)
    assert "moved to the front" in capsys.readouterr().err
    pairs = np.arange(30) ^ 1  # every image has a duplicate, which stands before it
    doubled = np.stack([pairs, np.arange(30), (np.arange(30) + 5) % 30], 1)
    np.save(tmp_path / "n.npy", doubled)
    assert np.array_equal(load_neighbors(tmp_path / "n.npy", 30, 2), doubled[:, [1, 0, 2]])


BAD_FILES = {
    "another data set": (lambda p: save_neighbors(p, INDICES, "other"), "another data set"),
    "another size": (lambda p: save_neighbors(p, INDICES[:20] % 20, "abc"), r"20 images; this one has 30"),
    "too few": (lambda p: save_neighbors(p, INDICES[:, :4], "abc"), "num_mined_train=5"),
    "out of range": (lambda p: save_neighbors(p, INDICES + np.array([0] * 6 + [30]), "abc"), r"outside 0\.\.29"),
    "another order": (lambda p: save_neighbors(p, INDICES[::-1], "abc"), "images are not among their own neighbors"),
    "floats": (lambda p: np.save(p, INDICES.astype(np.float32)), "float32"),
    "one column": (lambda p: np.save(p, INDICES[:, :1]), "not neighbors"),
    "flat": (lambda p: np.save(p, INDICES[:, 0]), "not neighbors"),
    "a pickle": (lambda p: np.save(p, np.array([{"a": 1}], dtype=object)), "not a readable"),
    "truncated": (lambda p: (np.save(p, INDICES), p.write_bytes(p.read_bytes()[:300])), "not a readable"),
    "text": (lambda p: p.write_text("neighbors"), "not a readable"),
    "empty": (lambda p: p.write_bytes(b""), "not a readable"),
    "missing": (lambda p: None, "missing"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_do_not_fit_are_refused(case, tmp_path):
    write, message = BAD_FILES[case]
    write(tmp_path / "n.npy")
    with pytest.raises(UserError, match=message):
        load_neighbors(tmp_path / "n.npy", 30, 5, "abc")


def test_a_damaged_file_is_noticed(tmp_path):
    save_neighbors(tmp_path / "n.npy", INDICES, "abc")
    data = bytearray((tmp_path / "n.npy").read_bytes())
    data[-8] ^= 1
    (tmp_path / "n.npy").write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        load_neighbors(tmp_path / "n.npy", 30, 5, "abc")


def test_purity_by_hand():
    indices = np.array([[0, 1, 2], [1, 0, 2], [2, 3, 0], [3, 2, 1]])
    targets = np.array([0, 0, 1, 1])  # first neighbors agree always, second ones never
    assert purity(indices, torch.from_numpy(targets)) == {1: 1.0}
    assert purity(indices, targets, ks=(1, 2)) == {1: 1.0, 2: 0.5}


def test_purity_leaves_out_unknown_labels():
    indices = np.array([[0, 1, 2], [1, 0, 2], [2, 0, 1]])
    assert purity(indices, np.array([0, 0, -1]), ks=(1, 2)) == {1: 1.0, 2: 1.0}
    with pytest.raises(UserError, match="no image has a label"):
        purity(indices, np.array([-1, -1, -1]))


@pytest.mark.parametrize("is_bank", [False, True])
def test_knn_is_a_loop_over_votes_of_others(is_bank):
    bank, queries = normal(60, 5), normal(60 if is_bank else 25, 5, seed=0 if is_bank else 1)
    targets = torch.arange(60) % 4 - 1  # a quarter without label
    expected = []
    for number, query in enumerate(queries.double()):
        similarity = torch.nn.functional.cosine_similarity(bank.double(), query.unsqueeze(0)).tolist()
        votes_of = (i for i in range(60) if targets[i] >= 0 and not (is_bank and i == number))
        ranked = sorted(votes_of, key=lambda i, s=similarity: -s[i])
        votes = [0.0] * 3
        for i in ranked[:10]:
            votes[int(targets[i])] += math.exp(similarity[i] / 0.1)
        expected.append(votes.index(max(votes)))
    found = weighted_knn(bank, targets, queries, 3, k=10, temperature=0.1, leave_own_out=is_bank)
    assert found.tolist() == expected


def test_knn_weighs_the_near_more_and_stays_finite():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    query = torch.tensor([[1.0, 0.2]])
    targets = torch.tensor([0, 1, 1])
    assert weighted_knn(bank, targets, query, 2, temperature=0.001).tolist() == [0]
    assert weighted_knn(bank, targets, query, 2, temperature=100.0).tolist() == [1]
    with pytest.raises(UserError, match="no training image has a label"):
        weighted_knn(bank, torch.full((3,), -1), query, 2)


@pytest.mark.parametrize("budget_bytes", [None, 1 << 14])
def test_spaces_side_by_side_weigh_the_same_whatever_their_length_and_scale(way, budget_bytes):
    """By the mean of the spaces' cosines."""
    short, long = normal(60, 3), 100 * normal(60, 20, seed=1)

    def cosines(space):
        unit = space.double().numpy() / np.linalg.norm(space.double().numpy(), axis=1, keepdims=True)
        return unit @ unit.T

    both = cosines(short) + cosines(long)
    np.fill_diagonal(both, np.inf)
    found = mine_neighbors(torch.cat([short, long], dim=1), 5, **way, budget_bytes=budget_bytes, dims=[3, 20])
    assert np.array_equal(found, np.argsort(-both, axis=1)[:, :6])


GROWTH = """
import resource
import torch
from clustering.mining import mine_neighbors

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

features = torch.randn(4000, 512, generator=torch.Generator().manual_seed(0))
mine_neighbors(features[:500], 50, "torch", by_bf16=True)
before = most()
mine_neighbors(features, 50, "torch", by_bf16=True)
print(most() - before)
"""


@pytest.mark.slow
def test_memory_stays_what_a_few_parts_take():
    """Gaps between parts' results once added up to .9 GB here, and to all there was with 50,000 images."""
    code, grown = finish(GROWTH)
    assert code == 0 and int(grown) < 300_000  # KiB; the bank and one part's candidates are 60,000


@pytest.mark.parametrize(
    ("wanted", "num_images", "num_clusters", "expected"),
    [(20, 1000, 10, 20), (20, 300, 10, 15), (20, 39, 10, 1), (10, 5, 2, 1), (10, 2, 2, 1)],
)
def test_neighbors_are_at_most_half_a_mean_cluster_and_one_at_least(wanted, num_images, num_clusters, expected):
    assert limit_neighbors(wanted, num_images, num_clusters) == expected
