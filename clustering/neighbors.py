"""Neighbors: mined from features, kept in a file with what they belong to, and judged by labels."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from clustering.mining import mine_neighbors
from system import distributed
from system.bounded import map_array
from system.console import say, warn
from system.errors import UserError
from system.files import verify_file, write_file

__all__ = ["load_neighbors", "mine_neighbors", "purity", "save_neighbors", "weighted_knn"]

BLOCK_BYTES = 64 << 20  # of similarities at once
MAX_COLUMNS = 10_001
AGAIN = (
    "mine again, with the script and the config of that pretext run: python simclr.py --config_exp FILE --mine_only, "
    "python -m methods.NAME with the same options, or moco.py"
)
ABSENT = 0.05  # share of rows that more duplicates than there are columns may have pushed out of a published file


def limit_neighbors(wanted: int, num_images: int, num_clusters: int) -> int:
    """Return how many neighbors to look at: at most half as many as a mean cluster has images, and one at least.

    The others would be of another cluster.
    """
    return max(1, min(wanted, num_images // (2 * num_clusters), num_images - 1))


def mine_over_ranks(features: Tensor | np.ndarray, k: int, backend: str = "auto", **options: Any) -> np.ndarray:
    """`mine_neighbors`, the images shared over the ranks; every rank gets the neighbors of all."""
    own = distributed.slice_of(len(features))
    found = mine_neighbors(features, k, backend, rows=range(own.start, own.stop), **options)
    return distributed.gather_rows(torch.from_numpy(found)).numpy()


def save_neighbors(path: Path | str, indices: np.ndarray, fingerprint: str) -> None:
    """Write neighbors int64 [N, K + 1] as .npy, and next to them the fingerprint of the data set they belong to."""
    indices = np.ascontiguousarray(indices, dtype=np.int64)
    facts = {
        "fingerprint": fingerprint,
        "num_images": indices.shape[0],
        "num_neighbors": indices.shape[1] - 1,
    }
    write_file(path, lambda file: np.save(file, indices), num_bytes=indices.nbytes, **facts)


def load_neighbors(
    path: Path | str,
    num_images: int,
    num_neighbors: int,
    fingerprint: str | None = None,
    advice: str = "run the pretext stage first: python simclr.py (or moco.py) --config_exp FILE",
) -> np.ndarray:
    """Read a neighbor file, ours or a published one, as int64 [num_images, num_neighbors + 1].

    Column 0 is the image itself: in published files, where a duplicate may stand there, it is moved to the front. With
    a `fingerprint`, a file of another data set is refused; a file without a record loads, and that is said.
    Raises UserError for a missing file (`advice` then says what to do) or a damaged one, or one that does not fit.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"the neighbor file {path} is missing; {advice}")
    facts = verify_file(path, replaceable=True)
    try:
        indices: np.ndarray = map_array(path)
    except UserError as error:
        raise UserError(f"{error}; {AGAIN}") from error
    if indices.ndim != 2 or indices.dtype.kind not in "iu" or indices.shape[1] < 2:
        raise UserError(
            f"{path} holds {indices.dtype} {list(indices.shape)}, not neighbors, int64 [images, neighbors + 1]; {AGAIN}"
        )
    of_another = facts is not None and fingerprint is not None and facts.get("fingerprint") != fingerprint
    if len(indices) != num_images or of_another:
        found = f"{len(indices)} images; this one has {num_images}" if len(indices) != num_images else "as many images"
        raise UserError(f"{path} holds the neighbors of another data set ({found}); {AGAIN}")
    if indices.shape[1] > MAX_COLUMNS:
        raise UserError(f"{path} holds {indices.shape[1]:,} columns, at most {MAX_COLUMNS:,} are read; {AGAIN}")
    if indices.shape[1] <= num_neighbors:
        raise UserError(
            f"{path} holds {indices.shape[1] - 1} neighbors per image, but {num_neighbors} are asked for; {AGAIN}, "
            f"and with num_mined_train={num_neighbors} (num_mined_val for the validation images)"
        )
    if indices.min() < 0 or indices.max() >= num_images:
        raise UserError(f"{path} names images outside 0..{num_images - 1}; {AGAIN}")
    if facts is None:
        say(f"{path} has no record of its data set (a published file): taken as it is")
    indices = _itself_first(path, indices.astype(np.int64, copy=False))
    return np.array(indices[:, : num_neighbors + 1])  # no longer a part of the file


def _itself_first(path: Path, indices: np.ndarray) -> np.ndarray:
    itself = np.arange(len(indices))[:, None]
    moved = np.flatnonzero(indices[:, 0] != itself[:, 0])
    if len(moved) == 0:
        return indices
    # An image with many duplicates may have fallen out of its own row; few do.
    num_absent = int((indices != itself).all(1).sum())
    if num_absent > max(1.0, ABSENT * len(indices)):
        raise UserError(
            f"{path}: {num_absent} of {len(indices)} images are not among their own neighbors, so the rows belong to "
            f"another data set or order; {AGAIN}"
        )
    warn(f"{path}: {len(moved)} images are not their own first neighbor (duplicates); moved to the front")
    indices = indices.copy()
    for row in moved:
        others = indices[row][indices[row] != row][: indices.shape[1] - 1]
        indices[row] = [row, *others]
    return indices


def purity(
    indices: np.ndarray | Tensor, targets: np.ndarray | Tensor, ks: Iterable[int] = (1, 5, 20)
) -> dict[int, float]:
    """Return for each K the share of equal labels between images and their neighbors 1..K.

    indices [N, >= K + 1] with the image itself in column 0; targets [N], pairs with an unknown one (-1) are left out.
    A K beyond the columns is left out of the result. Raises UserError when there are no labels.
    """
    indices, targets = np.asarray(indices), np.asarray(targets)
    neighbors = targets[indices[:, 1:]]
    known = (targets[:, None] >= 0) & (neighbors >= 0)
    equal = known & (neighbors == targets[:, None])
    if not known.any():
        raise UserError("no image has a label, so the purity of neighbors is unknown; give a labeled split")
    ks = tuple(k for k in ks if k <= neighbors.shape[1])
    return {k: float(equal[:, :k].sum() / max(1, known[:, :k].sum())) for k in ks}


@torch.no_grad()
def weighted_knn(
    bank: Tensor,
    bank_targets: Tensor,
    queries: Tensor,
    num_classes: int,
    k: int = 100,
    temperature: float = 0.1,
    *,
    leave_own_out: bool = False,
) -> Tensor:
    """Predict the class of queries [Q, D] from a labeled bank [N, D]; int64 [Q] on the device of the queries.

    The k most similar bank features (cosine) vote for their class with exp(similarity / temperature); features without
    a label (target -1) have no vote. Where the queries are the bank, `leave_own_out` keeps each from voting for itself.
    From https://arxiv.org/abs/1805.01978. Raises UserError when none has a label.
    """
    labeled = bank_targets.to(bank.device) >= 0
    if not bool(labeled.any()):
        raise UserError("no training image has a label, so k-nearest-neighbor accuracy is unknown; leave out --knn")
    bank = functional.normalize(bank[labeled].to(queries.device).float(), dim=1)
    targets = bank_targets.to(queries.device, torch.int64)[labeled.to(queries.device)]
    size = max(1, BLOCK_BYTES // (4 * len(bank)))
    columns = labeled.to(queries.device).cumsum(0) - 1  # where a labeled feature is among those that vote
    predictions = []
    for rows in torch.arange(len(queries), device=queries.device).split(size):
        block = queries[rows]
        similarity = functional.normalize(block.float(), dim=1) @ bank.T
        if leave_own_out:
            own = labeled.to(queries.device)[rows]
            similarity[own.nonzero()[:, 0], columns[rows[own]]] = -torch.inf
        nearest, index = similarity.topk(min(k, len(bank)), dim=1)
        # exp((s - 1) / t) is the vote up to a common factor, and never overflows.
        votes = nearest.new_zeros(len(block), num_classes)
        votes.scatter_add_(1, targets[index], ((nearest - 1) / temperature).exp())
        predictions.append(votes.argmax(1))
    return torch.cat(predictions) if predictions else targets.new_empty(0)
