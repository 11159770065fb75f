"""Embedding lookup in which each distinct row is read once and gets one summed gradient, however often it occurs."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref import operators


class EmbeddingRows(torch.autograd.Function):
    """F.embedding(ids, table, sparse=True).to(dtype), with a gradient that has each row once (coalesced).

    table [V, D], ids [...] -> [..., D] in `dtype`; the gradient is in the table's type.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
        distinct_ids, inverse = unique_ids(ids.flatten(), len(table))
        ctx.save_for_backward(distinct_ids, inverse)
        ctx.shape, ctx.dtype = table.shape, table.dtype
        # Only distinct rows are read from the table, which exceeds every cache, and converted.
        return table.index_select(0, distinct_ids).to(dtype).index_select(0, inverse).view(*ids.shape, -1)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None]:
        distinct_ids, inverse = ctx.saved_tensors
        sums = sum_rows(inverse, grad_out.reshape(len(inverse), -1), len(distinct_ids)).to(ctx.dtype)
        gradient = torch.sparse_coo_tensor(
            distinct_ids[None], sums, ctx.shape, is_coalesced=True, check_invariants=False
        )
        return gradient, None, None


@operators.uncompiled  # a graph has no sparse gradients
def embed(table: nn.Embedding, ids: Tensor) -> Tensor:
    """table(ids) [..., D]; of a sparse table by `EmbeddingRows`, in autocast's type where that is on."""
    if not table.sparse:
        return table(ids)
    kind = ids.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else table.weight.dtype
    return EmbeddingRows.apply(table.weight, ids, dtype)


def unique_ids(ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """torch.unique(ids, return_inverse=True) of ids [N] below `size`: the distinct ones in order, and the index of each."""
    if ids.device.type != "cpu":
        return torch.unique(ids, return_inverse=True)
    # Marking which ids occur takes a tenth of the time of sorting them.
    occurs = np.zeros(size, bool)
    occurs[ids.numpy()] = True
    distinct_ids = np.flatnonzero(occurs)
    index = np.empty(size, np.int64)
    index[distinct_ids] = np.arange(len(distinct_ids))
    return torch.from_numpy(distinct_ids), torch.from_numpy(index[ids.numpy()])


def sum_rows(index: Tensor, rows: Tensor, count: int) -> Tensor:  # [N], [N, D] -> [count, D]
    """rows.new_zeros(count, D).index_add(0, index, rows), where each index below `count` occurs."""
    if index.device.type == "cpu":  # NumPy sorts 16-bit integers by radix
        array = index.numpy()
        order = torch.from_numpy(array.astype(np.uint16 if count <= 2**16 else np.int64).argsort(kind="stable"))
    else:
        order = index.argsort()
    ends = index.bincount(minlength=count).cumsum(0)
    return F.embedding_bag(order, rows, F.pad(ends[:-1], (1, 0)), mode="sum")
