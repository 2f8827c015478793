"""The features of a whole split, served in blocks to what computes with all pairs of them."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.heads import unit_spaces
from system.errors import UserError

TIE = 2.0**-40  # similarities are rounded to multiples of 1e-12: what differs by less is noise of float64


class Bank:
    """All features [N, D], a tensor or a memory map, served in blocks to the devices that compute with them.

    `search` is the device of float32 blocks, `exact` that of float64 values (the CPU where `search` has none). `dims`
    are the lengths of the spaces that stand side by side in the features.
    """

    def __init__(
        self, features: Tensor | np.ndarray, search: torch.device, budget_bytes: int, dims: Sequence[int] = ()
    ) -> None:
        with warnings.catch_warnings():  # that a memory map may be read only: nothing writes to it
            warnings.simplefilter("ignore", UserWarning)
            self.features = torch.as_tensor(features)
        self.search = search
        self.exact = torch.device("cpu") if search.type == "mps" else search
        self.num_rows, self.num_dims = self.features.shape
        self.dims = list(dims) if len(dims) > 1 else []
        # A block takes a quarter of the budget while it is normalized, 8 + 4 bytes a value.
        size = max(1, budget_bytes // (4 * 12 * self.num_dims))
        self.blocks = [slice(i, min(i + size, self.num_rows)) for i in range(0, self.num_rows, size)]
        norms = torch.cat([self.values(block).norm(dim=1) for block in self.blocks])
        if not bool(torch.isfinite(norms).all()):
            row = int((~torch.isfinite(norms)).nonzero()[0])
            raise UserError(
                f"the features of image {row} hold NaN or infinite values, so it has no neighbors; the model has "
                "diverged or its file is damaged; train it again with a lower optimizer_kwargs.lr"
            )
        self.norms = torch.where(norms > 0, norms, 1.0)  # a row of zeros has similarity 0 to all
        self.whole = self._normalize(self.blocks[0]) if len(self.blocks) == 1 else None

    def values(self, rows: slice | Tensor) -> Tensor:
        """Features, float64 [n, D], as they were given, of several spaces each L2-normalized by itself.

        They may share memory with those given for a slice of float64 rows.
        """
        if isinstance(rows, slice):
            found = self.features[rows].to(self.exact).double()
        else:
            found = self.features.index_select(0, rows.to(self.features.device)).to(self.exact).double()
        return unit_spaces(found, self.dims) if self.dims else found

    def unit(self, rows: slice | Tensor) -> Tensor:
        """L2-normalized features, float32 [n, D]."""
        return self._normalize(rows) if self.whole is None else self.whole[rows]

    def _normalize(self, rows: slice | Tensor) -> Tensor:
        return (self.values(rows) / self.norms[rows].unsqueeze(1)).float().to(self.search)

    def similarity(self, rows: Tensor, others: Tensor) -> Tensor:
        """Cosine similarity of rows [n] and others [n, m], float64 [n, m], every pair by the same operations."""
        values = self.values(others.reshape(-1)).view(*others.shape, self.num_dims)
        products = values.mul_(self.values(rows).unsqueeze(1)).sum(2)
        cosine = products / (self.norms[rows].unsqueeze(1) * self.norms[others])
        return (cosine / TIE).round_().mul_(TIE)
