"""Exact nearest neighbors by inner product of L2-normalised features, in blocks, on any device.

A float32 search proposes a few more candidates than are needed. Where two of them are closer than the error bound of
float32, float64 products choose; where that bound does not prove that no better neighbor was left out, the row is
searched again in float64. The result therefore depends on the features alone: not on blocks, backend, device or
number of ranks.
"""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from utils.console import progress
from utils.errors import UserError

BUDGET_BYTES = 2 << 30
CACHE_BYTES = 4 << 20  # of candidates compared at once on the CPU, so that they stay in its cache
MARGIN = 8  # candidates beyond the neighbors asked for
TIE = 2.0**-40  # similarities are rounded to multiples of 1e-12: what differs by less is noise of float64


class Bank:
    """All features [N, D], a tensor or a memory map, served in blocks to the devices that compute with them.

    `search` is the device of float32 blocks, `exact` that of float64 values (the CPU where `search` has none).
    """

    def __init__(self, features: Tensor | np.ndarray, search: torch.device, budget_bytes: int) -> None:
        self.features = features
        self.search = search
        self.exact = torch.device("cpu") if search.type == "mps" else search
        self.num_rows: int = features.shape[0]
        self.num_dims: int = features.shape[1]
        # A block takes a quarter of the budget while it is normalised, 8 + 4 bytes a value.
        size = max(1, budget_bytes // (4 * 12 * self.num_dims))
        self.blocks = [range(i, min(i + size, self.num_rows)) for i in range(0, self.num_rows, size)]
        norms = torch.cat([self.values(block).norm(dim=1) for block in self.blocks])
        if not bool(torch.isfinite(norms).all()):
            row = int((~torch.isfinite(norms)).nonzero()[0])
            raise UserError(
                f"the features of image {row} hold NaN or infinite values, so it has no neighbors; the model has "
                "diverged or its file is damaged"
            )
        self.norms = torch.where(norms > 0, norms, 1.0)  # a row of zeros has similarity 0 to all
        self.whole = self._normalise(self.blocks[0]) if len(self.blocks) == 1 else None

    def values(self, rows: range | Tensor) -> Tensor:
        """Features as they were given, float64 [n, D]; may share memory with them for a range of float64 rows."""
        index = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
        if isinstance(self.features, Tensor):
            own = self.features.device
            found = self.features[index] if isinstance(index, slice) else self.features.index_select(0, index.to(own))
        else:
            found = torch.from_numpy(
                np.array(self.features[index if isinstance(index, slice) else index.cpu().numpy()])
            )
        return found.to(self.exact).double()

    def unit(self, rows: range) -> Tensor:
        """L2-normalised features, float32 [n, D]."""
        return self._normalise(rows) if self.whole is None else self.whole[rows.start : rows.stop]

    def _normalise(self, rows: range) -> Tensor:
        return (self.values(rows) / self.norms[rows.start : rows.stop, None]).float().to(self.search)

    def similarity(self, rows: Tensor, others: Tensor) -> Tensor:
        """Cosine similarity of rows [n] and others [n, m], float64 [n, m], every pair by the same operations."""
        values = self.values(others.reshape(-1)).view(*others.shape, self.num_dims)
        products = values.mul_(self.values(rows).unsqueeze(1)).sum(2)
        cosine = products / (self.norms[rows].unsqueeze(1) * self.norms[others])
        return (cosine / TIE).round_().mul_(TIE)


def _search_torch(queries: Tensor, bank: Tensor, num: int) -> tuple[Tensor, Tensor]:
    scores, indices = (queries @ bank.T).topk(num, dim=1)
    return scores, indices


def _search_faiss(queries: Tensor, bank: Tensor, num: int) -> tuple[Tensor, Tensor]:
    import faiss  # optional: auto falls back to torch

    scores, indices = faiss.knn(queries.numpy(), bank.numpy(), num, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(scores), torch.from_numpy(indices)


SEARCHES: dict[str, Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]] = {
    "torch": _search_torch,
    "faiss": _search_faiss,
}


@torch.no_grad()
def mine_neighbors(
    features: Tensor | np.ndarray,
    k: int,
    backend: str = "auto",
    budget_bytes: int | None = None,
    rows: range | None = None,
    device: torch.device | None = None,
) -> np.ndarray:
    """Return the k nearest neighbors of every row by cosine similarity, int64 [N, k + 1], or of some rows only.

    Column 0 is the row itself, also where it has duplicates; the others follow by falling similarity (float64, rounded
    to 1e-12), ties by index. A row of zeros has similarity 0 to every other.

    Args:
        features: [N, D], normalised or not; a tensor on any device, or a memory map, which is streamed.
        k: neighbors per row, below N.
        backend: faiss (on the CPU), torch (any device), or auto: faiss on the CPU where it is installed.
        budget_bytes: working memory besides features and result, by default 2 GiB, on a GPU a quarter of what is
            free; it changes the speed only.
        rows: the rows to mine, a range of step 1, for sharing the work out over ranks.
        device: where to search; by default where the features are.

    Raises:
        UserError: k is not below N, a feature is not finite, or faiss is asked for and not installed.
    """
    num_rows = len(features)
    if not 1 <= k < num_rows:
        raise UserError(
            f"cannot mine {k} neighbors among {num_rows} images; mine at least 1 and at most {num_rows - 1}"
        )
    device = device or (features.device if isinstance(features, Tensor) else torch.device("cpu"))
    backend = _find_backend(backend, device)
    budget_bytes = budget_bytes or _find_budget(device)
    bank = Bank(features, torch.device("cpu") if backend == "faiss" else device, budget_bytes)
    rows = range(num_rows) if rows is None else rows
    num_candidates = min(num_rows, k + 1 + MARGIN)
    width = 2 * len(bank.blocks[0]) if backend == "torch" else bank.num_dims + 6 * num_candidates
    size = max(1, budget_bytes // (4 * 4 * width))
    starts = range(rows.start, rows.stop, size)
    result = np.empty((len(rows), k + 1), dtype=np.int64)
    with _full_float32():
        for start in progress(starts, total=len(starts), desc="neighbors"):
            part = range(start, min(start + size, rows.stop))
            found = _mine_part(bank, part, k, num_candidates, SEARCHES[backend])
            result[start - rows.start : part.stop - rows.start] = found.cpu().numpy()
    return result


def _find_budget(device: torch.device) -> int:
    return max(BUDGET_BYTES, torch.cuda.mem_get_info(device)[0] // 4) if device.type == "cuda" else BUDGET_BYTES


def _find_backend(backend: str, device: torch.device) -> str:
    installed = importlib.util.find_spec("faiss") is not None
    if backend == "auto":
        return "faiss" if installed and device.type == "cpu" else "torch"
    if backend == "faiss" and not installed:
        raise UserError(
            "neighbors=faiss needs faiss, which is not installed; pip install faiss-cpu, or neighbors=torch"
        )
    if backend not in SEARCHES:
        raise UserError(f"neighbors={backend} is no way to search; use auto, torch or faiss")
    return backend


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """Keep TF32 and its like out: the error bound is that of float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _mine_part(bank: Bank, part: range, k: int, num_candidates: int, search: Callable) -> Tensor:
    """Mine consecutive rows: candidates in float32, choice in float64 where it can differ, int64 [n, k + 1]."""
    scores, candidates = _candidates(bank, bank.unit(part), num_candidates, search)
    rows = torch.arange(part.start, part.stop, device=bank.exact)
    scores = scores.to(bank.exact).double()
    # Products of D float32 values are off by D·2^-24 at most, normalised factors by 2^-24 each.
    error = 1.01 * (bank.num_dims + 4) * 2.0**-24 + TIE
    # Scores further apart than both can be off stand in their true order, and so does all that comes after them.
    apart = (-scores[:, : k + 2].diff(dim=1) > 2 * error).all(1) & (candidates[:, 0] == rows)
    neighbors = candidates[:, 1 : k + 1].contiguous()
    near = (~apart).nonzero().squeeze(1)
    bytes_per_row = num_candidates * bank.num_dims * 8
    cache = CACHE_BYTES if bank.exact.type == "cpu" else 64 * CACHE_BYTES
    for some in near.split(max(1, cache // bytes_per_row)):
        similarities, neighbors[some] = _rank(bank, rows[some], candidates[some], k)
        unproven = some[similarities[:, -1] <= scores[some, -1] + error]
        if num_candidates < bank.num_rows and len(unproven):
            neighbors[unproven] = _search_again(bank, rows[unproven], k)
    return torch.cat([rows.unsqueeze(1), neighbors], dim=1)


def _candidates(bank: Bank, queries: Tensor, num: int, search: Callable) -> tuple[Tensor, Tensor]:
    """Return float32 scores (falling) and indices [n, num] of the best rows of the bank, block by block."""
    scores, indices = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    indices = indices.to(queries.device)
    for block in bank.blocks:
        new_scores, new_indices = search(queries, bank.unit(block), min(num, len(block)))
        scores = torch.cat([scores, new_scores], dim=1)
        indices = torch.cat([indices, new_indices + block.start], dim=1)
        if len(bank.blocks) > 1:
            scores, order = scores.topk(min(num, scores.shape[1]), dim=1)
            indices = indices.gather(1, order)
    return scores, indices.to(bank.exact)


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
    size = max(1, 16 * CACHE_BYTES // (8 * len(bank.blocks[0])))
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
        rough = queries @ (bank.values(block) / bank.norms[block.start : block.stop, None]).T
        # Matrix products may round equal pairs differently: they only say which pairs are worth an exact look.
        lowest = rough.topk(min(num, len(block)), dim=1).values[:, -1:] - 4 * TIE
        for i, near in enumerate(rough >= lowest):
            index = near.nonzero().squeeze(1) + block.start
            similarity = bank.similarity(rows[i : i + 1], index.unsqueeze(0)).squeeze(0)
            merged, index = torch.cat([best[i][0], similarity]), torch.cat([best[i][1], index])
            order = merged.sort(descending=True, stable=True).indices[:num]
            best[i] = (merged[order], index[order])
    return [index for _, index in best]
