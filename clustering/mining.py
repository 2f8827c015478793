"""Exact nearest neighbors by inner product of L2-normalized features, in blocks, on any device.

A search in low precision proposes more candidates than are needed. Where its error bound proves that no other row can
be among the neighbors, float32 scores order the candidates, and float64 products those that are closer than float32
can distinguish. Rows without a proof go to the next search: bfloat16 where the device multiplies it fast, float32,
float64. The result therefore depends on the features alone: not on blocks, backend, device or number of ranks.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from clustering.bank import TIE, Bank
from system.console import progress
from system.errors import UserError
from system.runtime import exact_products, free_bytes, has_fast_bf16

BUDGET_BYTES = 2 << 30
CACHE_BYTES = 4 << 20  # of candidates compared at once on the CPU, so that they stay in its cache
SCORES_BYTES = 32 << 20  # of scores made at once on the CPU, for the same reason
GROUP = 16  # scores of which only the largest is looked at first

# Candidates [n, m] of queries [n, D] in a block [N, D]: float32 scores, their places, and limit [n], above which the
# product of no other row of the block is by more than a float32 product can be off.
Found = tuple[Tensor, Tensor, Tensor]
Search = tuple[Callable[[Tensor, Tensor, int, int], Found], int]  # and how many candidates it is to propose


def _largest(scores: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The `num` largest of every row of scores [n, N], falling, and their columns.

    They are in the `num` groups of columns that have the largest maxima, and maxima are found faster than ranks.
    """
    num_groups = scores.shape[1] // GROUP
    if num_groups <= 4 * num:
        return scores.topk(num, dim=1)
    whole = num_groups * GROUP
    groups = scores[:, :whole].view(-1, GROUP, num_groups).amax(1).topk(num, dim=1, sorted=False).indices
    columns = (groups.unsqueeze(2) + num_groups * torch.arange(GROUP, device=groups.device)).flatten(1)
    rest = torch.arange(whole, scores.shape[1], device=groups.device).expand(len(scores), -1)
    columns = torch.cat([columns, rest], dim=1)
    largest, place = scores.gather(1, columns).topk(num, dim=1)
    return largest, columns.gather(1, place)


def _limit(scores: Tensor, num_rows: int) -> Tensor:
    """The lowest score of each row, or -inf where all rows are candidates and none is left."""
    return scores[:, -1] if scores.shape[1] < num_rows else torch.full_like(scores[:, -1], -torch.inf)


def _search(dtype: torch.dtype, queries: Tensor, unit: Tensor, num: int, scores_bytes: int) -> Found:
    """Candidates by products in bfloat16 or float32."""
    low_queries, low_unit = queries.to(dtype), unit.to(dtype)
    errors = queries.new_zeros(len(queries))  # added to those of float32, which `_choose` knows
    bytes_per_row = low_unit.element_size() * len(unit)
    rescored = dtype != torch.float32
    if rescored:
        # Cauchy-Schwarz for what rounding took from the factors, D sums in float32 (or a little less, on tensor cores),
        # and the rounding of a result below 1.
        lost = (queries - low_queries).norm(dim=1) + (unit - low_unit).norm(dim=1).max()
        errors = 1.01 * lost + unit.shape[1] * 2.0**-22 + 2.0**-9
        bytes_per_row += 4 * num * (unit.shape[1] + 4 * GROUP)
    size = max(1, scores_bytes // bytes_per_row)
    # Memory is taken once: new memory for each part would cost twice the time, and what results keep of it would leave
    # gaps between them that fit no other part.
    space = low_unit.new_empty(min(size, len(queries)), len(unit))
    near = unit.new_empty(len(space) * num if rescored else 0, unit.shape[1])
    scores, limits = queries.new_empty(len(queries), num), queries.new_empty(len(queries))
    indices = torch.empty(len(queries), num, dtype=torch.int64, device=queries.device)
    for start in range(0, len(queries), size):
        some = slice(start, min(start + size, len(queries)))
        low, own = low_queries[some], queries[some]
        rough, indices[some] = _largest(torch.mm(low, low_unit.T, out=space[: len(low)]), num)
        limits[some] = _limit(rough.float(), len(unit)) + errors[some]
        if rescored:
            rows = torch.index_select(unit, 0, indices[some].flatten(), out=near[: len(low) * num])
            rough = torch.bmm(rows.view(len(low), num, -1), own.unsqueeze(2)).squeeze(2)
        scores[some] = rough
    return scores, indices, limits


def _search_faiss(queries: Tensor, unit: Tensor, num: int, scores_bytes: int) -> Found:
    import faiss  # optional: auto falls back to torch

    scores, indices = map(
        torch.from_numpy, faiss.knn(queries.numpy(), unit.numpy(), num, metric=faiss.METRIC_INNER_PRODUCT)
    )
    return scores, indices, _limit(scores, len(unit))


@torch.no_grad()
def mine_neighbors(
    features: Tensor | np.ndarray,
    k: int,
    backend: str = "auto",
    budget_bytes: int | None = None,
    rows: range | None = None,
    device: torch.device | None = None,
    by_bf16: bool | None = None,
    dims: Sequence[int] = (),
) -> np.ndarray:
    """Return the k nearest neighbors of every row by cosine similarity, int64 [N, k + 1], or of some rows only.

    Column 0 is the row itself, also where it has duplicates; the others follow by falling similarity (float64, rounded
    to 1e-12), ties by index. A row of zeros has similarity 0 to every other.

    Args:
        features: [N, D], normalized or not; a tensor on any device, or a memory map, which is streamed.
        k: neighbors per row, below N.
        backend: faiss (on the CPU), torch (any device), or auto: torch for bfloat16 and on accelerators, and for
            float32 on the CPU faiss where it is installed.
        budget_bytes: working memory besides features and result, by default 2 GiB, on a GPU a quarter of what is
            free; it changes the speed only.
        rows: the rows to mine, a range of step 1, for sharing the work out over ranks.
        device: where to search; by default where the features are.
        by_bf16: whether torch searches in bfloat16 first; by default where the device multiplies it fast.
        dims: the lengths of several spaces that stand side by side in the features, whose similarities are averaged.

    Raises:
        UserError: k is not below N, a feature is not finite, or faiss is asked for and not installed.
    """
    num_rows = len(features)
    if not 1 <= k < num_rows:
        raise UserError(
            f"cannot mine {k} neighbors among {num_rows} images; mine at least 1 and at most {num_rows - 1}"
        )
    device = device or (features.device if isinstance(features, Tensor) else torch.device("cpu"))
    searches = _find_searches(backend, device, k, has_fast_bf16(device) if by_bf16 is None else by_bf16)
    if not budget_bytes:
        budget_bytes = max(BUDGET_BYTES, free_bytes(device) // 4) if device.type == "cuda" else BUDGET_BYTES
    bank = Bank(features, torch.device("cpu") if backend == "faiss" else device, budget_bytes, dims)
    rows = range(num_rows) if rows is None else rows
    scores_bytes = SCORES_BYTES if bank.search.type == "cpu" else budget_bytes // 4
    size = max(1, budget_bytes // (4 * 4 * (bank.num_dims + 12 * (k + 8))))
    starts = range(rows.start, rows.stop, size)
    result = np.empty((len(rows), k + 1), dtype=np.int64)
    with exact_products():
        for start in progress(starts, total=len(starts), desc="neighbors"):
            part = torch.arange(start, min(start + size, rows.stop), device=bank.exact)
            found = _mine_part(bank, part, k, searches, min(scores_bytes, budget_bytes // 4))
            result[start - rows.start :][: len(part)] = torch.cat([part.unsqueeze(1), found], dim=1).cpu().numpy()
    return result


def _find_searches(backend: str, device: torch.device, k: int, by_bf16: bool) -> list[Search]:
    """What proposes candidates, in rising precision; bfloat16 has to propose more of them for a proof."""
    installed = importlib.util.find_spec("faiss") is not None
    if backend == "faiss" and not installed:
        raise UserError(
            "neighbors=faiss needs faiss, which is not installed; pip install faiss-cpu, or neighbors=torch"
        )
    if backend not in ("auto", "torch", "faiss"):
        raise UserError(f"neighbors={backend} is not a way to search; use auto, torch or faiss")
    # On macOS the wheels of PyTorch and faiss bring an OpenMP each, and a process with both may abort.
    suits = installed and device.type == "cpu" and sys.platform != "darwin"
    by_faiss = backend == "faiss" or (backend == "auto" and suits)
    full = (_search_faiss if by_faiss else partial(_search, torch.float32), k + 9)
    fast = (partial(_search, torch.bfloat16), 2 * k + 10)
    return [fast, full] if backend != "faiss" and by_bf16 else [full]


def _mine_part(bank: Bank, rows: Tensor, k: int, searches: list[Search], scores_bytes: int) -> Tensor:
    """The neighbors of some rows, int64 [n, k]: each search hands on the rows for which it proves nothing."""
    neighbors = torch.empty(len(rows), k, dtype=torch.int64, device=bank.exact)
    left = torch.arange(len(rows), device=bank.exact)
    for search in searches:
        candidates = _propose(bank, rows[left], search, scores_bytes)
        neighbors[left], proven = _choose(bank, rows[left], k, *candidates)
        left = left[~proven]
        if not len(left):
            return neighbors
    neighbors[left] = _search_again(bank, rows[left], k)
    return neighbors


def _propose(bank: Bank, rows: Tensor, search: Search, scores_bytes: int) -> Found:
    """Candidates among all rows of the bank, searched block by block; scores fall."""
    find, num = search
    queries = bank.unit(rows)
    scores, indices = queries.new_empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.int64, device=bank.search)
    limits = queries.new_full((len(rows),), -torch.inf)
    for block in bank.blocks:
        unit = bank.unit(block)
        new_scores, new_indices, new_limits = find(queries, unit, min(num, len(unit)), scores_bytes)
        scores, order = torch.cat([scores, new_scores], dim=1).sort(dim=1, descending=True)
        indices = torch.cat([indices, new_indices + block.start], dim=1).gather(1, order)
        limits = torch.maximum(limits, new_limits)
        if scores.shape[1] > num:
            limits = torch.maximum(limits, scores[:, num])
            scores, indices = scores[:, :num], indices[:, :num]
    return scores.to(bank.exact).double(), indices.to(bank.exact), limits.to(bank.exact).double()


def _choose(
    bank: Bank, rows: Tensor, k: int, scores: Tensor, candidates: Tensor, limits: Tensor
) -> tuple[Tensor, Tensor]:
    """Return k neighbors [n, k] out of candidates [n, m], and whether they are proven to be the right ones [n]."""
    # Products of D float32 values are off by D·2^-24 at most, normalized factors by 2^-24 each.
    error = 1.01 * (bank.num_dims + 4) * 2.0**-24 + TIE
    limits = limits + error
    # Scores further apart than both can be off stand in their true order, and so does all that comes after them.
    apart = (-scores[:, : k + 2].diff(dim=1) > 2 * error).all(1)
    proven = apart & (candidates[:, 0] == rows) & (scores[:, k] - error > limits)
    neighbors = candidates[:, 1 : k + 1].clone()
    bytes_per_row = candidates.shape[1] * bank.num_dims * 8
    cache = CACHE_BYTES if bank.exact.type == "cpu" else 64 * CACHE_BYTES
    for some in (~proven).nonzero().squeeze(1).split(max(1, cache // bytes_per_row)):
        similarities, neighbors[some] = _rank(bank, rows[some], candidates[some], k)
        proven[some] = similarities[:, -1] > limits[some]
    return neighbors, proven


def _rank(bank: Bank, rows: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return float64 similarities and indices [n, k] of the best candidates [n, m] but the row itself."""
    candidates = candidates.sort(dim=1).values
    similarities = bank.similarity(rows, candidates)
    similarities.masked_fill_(candidates == rows.unsqueeze(1), -torch.inf)
    similarities, order = similarities.sort(dim=1, descending=True, stable=True)
    return similarities[:, :k], candidates.gather(1, order[:, :k])


def _search_again(bank: Bank, rows: Tensor, k: int) -> Tensor:
    """Return the k neighbors [n, k] of rows [n] by float64 products with the whole bank.

    Rows with the same content share one search for k + 1 neighbors, from which each leaves out itself: features that
    have collapsed to one point cost no more than others.
    """
    contents: dict[bytes, list[int]] = {}
    for position, values in enumerate(bank.values(rows).cpu().numpy()):
        contents.setdefault(values.tobytes(), []).append(position)
    groups = list(contents.values())
    result = torch.empty(len(rows), k, dtype=torch.int64, device=rows.device)
    size = max(1, 16 * CACHE_BYTES // (8 * bank.blocks[0].stop))
    for start in range(0, len(groups), size):
        some = groups[start : start + size]
        found = _exact_neighbors(bank, rows[[members[0] for members in some]], k + 1)
        for members, best in zip(some, found, strict=True):
            kept = best != rows[members].unsqueeze(1)
            kept[:, -1] &= kept[:, :-1].all(1).logical_not()
            result[members] = best.expand(len(members), -1)[kept].view(len(members), k)
    return result


def _exact_neighbors(bank: Bank, rows: Tensor, num: int) -> list[Tensor]:
    """Return for each of a few rows the `num` best of the whole bank, itself included where it is among them."""
    queries = bank.values(rows) / bank.norms[rows].unsqueeze(1)
    best = [(queries.new_empty(0), rows.new_empty(0)) for _ in rows]
    for block in bank.blocks:
        rough = queries @ (bank.values(block) / bank.norms[block].unsqueeze(1)).T
        # Matrix products may round equal pairs differently: they only say which pairs are worth an exact look.
        lowest = rough.topk(min(num, rough.shape[1]), dim=1).values[:, -1:] - 4 * TIE
        for i, near in enumerate(rough >= lowest):
            index = near.nonzero().squeeze(1) + block.start
            similarity = bank.similarity(rows[i : i + 1], index.unsqueeze(0)).squeeze(0)
            merged, index = torch.cat([best[i][0], similarity]), torch.cat([best[i][1], index])
            order = merged.sort(descending=True, stable=True).indices[:num]
            best[i] = (merged[order], index[order])
    return [index for _, index in best]
