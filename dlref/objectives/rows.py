"""Rows of a table that are looked up once and whose gradients are put back once, summed where a row occurred twice."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LookUp(torch.autograd.Function):
    """table [V, D], ids [...] -> [..., D] in `dtype`; the gradient is sparse, each row once, in the type of the table."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape, ctx.dtype = table.shape, table.dtype
        return table.index_select(0, ids.flatten()).to(dtype).view(*ids.shape, -1)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        return sum_rows(ids.flatten(), slopes.reshape(ids.numel(), -1), ctx.shape, ctx.dtype), None, None


@torch.compiler.disable  # a graph has no sparse gradients
def look_up(table: nn.Embedding, ids: Tensor) -> Tensor:
    """Rows [..., D] of a table of sparse gradients, under autocast in its type; of another table as it looks up itself."""
    if not table.sparse:
        return table(ids)
    kind = ids.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else table.weight.dtype
    return LookUp.apply(table.weight, ids, dtype)


def sum_rows(ids: Tensor, rows: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Rows [N, D] that belong to ids [N], those of one id summed, as a sparse tensor of the table's shape and type."""
    # NumPy sorts in a quarter of the time.
    order = torch.from_numpy(ids.numpy().argsort()) if ids.device.type == "cpu" else ids.argsort()
    found, counts = torch.unique_consecutive(ids.index_select(0, order), return_counts=True)
    sums = F.embedding_bag(order, rows, counts.cumsum(0) - counts, mode="sum").to(dtype)
    return torch.sparse_coo_tensor(found[None], sums, shape, is_coalesced=True, check_invariants=False)
