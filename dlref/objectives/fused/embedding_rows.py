"""Rows of a table that are looked up once and whose gradients are put back once, summed where a row occurred twice."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref import operators


class LookUp(torch.autograd.Function):
    """table [V, D], ids [...] -> [..., D] in `dtype`; the gradient is sparse, each row once, in the type of the table."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
        found, numbers = distinct(ids.flatten(), len(table))
        ctx.save_for_backward(found, numbers)
        ctx.shape, ctx.dtype = table.shape, table.dtype
        # The different rows alone are read from the table, which no cache holds, and converted.
        return table.index_select(0, found).to(dtype).index_select(0, numbers).view(*ids.shape, -1)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None, None]:
        found, numbers = ctx.saved_tensors
        sums = sum_rows(numbers, slopes.reshape(len(numbers), -1), len(found)).to(ctx.dtype)
        gradient = torch.sparse_coo_tensor(found[None], sums, ctx.shape, is_coalesced=True, check_invariants=False)
        return gradient, None, None


@operators.uncompiled  # a graph has no sparse gradients
def look_up(table: nn.Embedding, ids: Tensor) -> Tensor:
    """Rows [..., D] of a table of sparse gradients, under autocast in its type; of another table as it looks up itself."""
    if not table.sparse:
        return table(ids)
    kind = ids.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else table.weight.dtype
    return LookUp.apply(table.weight, ids, dtype)


def distinct(ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The different ones [U] of ids [N] below `size`, in order, and of each id which of them it is [N]."""
    if ids.device.type != "cpu":
        return torch.unique(ids, return_inverse=True)
    # To note which there are takes a tenth of the time of sorting.
    there = np.zeros(size, bool)
    there[ids.numpy()] = True
    found = np.flatnonzero(there)
    numbers = np.empty(size, np.int64)
    numbers[found] = np.arange(len(found))
    return torch.from_numpy(found), torch.from_numpy(numbers[ids.numpy()])


def sum_rows(numbers: Tensor, rows: Tensor, count: int) -> Tensor:  # [count, D]
    """Rows [N, D] summed by their numbers [N], of which each below `count` occurs."""
    if numbers.device.type == "cpu":  # NumPy sorts 16 bits by their digits
        array = numbers.numpy()
        order = torch.from_numpy(array.astype(np.uint16 if count <= 2**16 else np.int64).argsort(kind="stable"))
    else:
        order = numbers.argsort()
    ends = numbers.bincount(minlength=count).cumsum(0)
    return F.embedding_bag(order, rows, F.pad(ends[:-1], (1, 0)), mode="sum")
