"""Optimizers with a learning rate for each row of an embedding, for words of very different frequency.

Gradients may be dense or sparse. R rows that have a gradient, D dimensions.
"""

from typing import Any

import torch
from torch import Tensor


class RowOptimizer(torch.optim.Optimizer):
    """Moves each row of a parameter, which its first dimension counts, by its gradient times a rate of its own."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                gradient = table.grad.coalesce() if table.grad.is_sparse else table.grad
                row_grads = (gradient.values() if gradient.is_sparse else gradient).view(-1, table[0].numel())
                rows = gradient.indices()[0] if gradient.is_sparse else None
                row_grads.mul_(-self.rates(row_grads, rows, group, table)[:, None])
                if rows is None:
                    table.add_(gradient)
                else:  # in half the time of adding a sparse tensor
                    table.view(len(table), -1).index_add_(0, rows, row_grads)

    def rates(self, row_grads: Tensor, rows: Tensor | None, group: dict[str, Any], table: Tensor) -> Tensor:
        """The rates [R] of gradients [R, D], which belong to `rows` [R] of the table, or to all of it."""
        raise NotImplementedError


class RowSGD(RowOptimizer):
    """Gradient descent in which the update of each row has a norm of at most `max_row_norm`.

    The gradients of all occurrences of a frequent word in a batch are taken at the same weights and summed: without a limit
    such a sum overshoots.
    """

    def __init__(self, params: Any, lr: float, max_row_norm: float = 0.5) -> None:
        if lr < 0 or max_row_norm <= 0:
            raise ValueError(f"lr is {lr}, from 0 on, and max_row_norm {max_row_norm}, above 0")
        super().__init__(params, {"lr": lr, "max_row_norm": max_row_norm})

    def rates(self, row_grads: Tensor, rows: Tensor | None, group: dict[str, Any], table: Tensor) -> Tensor:
        return (group["max_row_norm"] / row_grads.norm(dim=1)).clamp_(max=group["lr"])


class RowAdagrad(RowOptimizer):
    """Adagrad (Duchi, Hazan & Singer 2011) with one sum of squares for each row: its rate is lr / √Σ mean(g_r²)."""

    def __init__(self, params: Any, lr: float = 0.05, eps: float = 1e-10) -> None:
        if lr < 0 or eps < 0:
            raise ValueError(f"lr is {lr} and eps {eps}; they take a number from 0 on")
        super().__init__(params, {"lr": lr, "eps": eps})

    def rates(self, row_grads: Tensor, rows: Tensor | None, group: dict[str, Any], table: Tensor) -> Tensor:
        state, squares = self.state[table], row_grads.square().mean(1)
        if "sums" not in state:
            state["sums"] = table.new_zeros(len(table))
        if rows is None:
            squares += state["sums"]
            state["sums"].copy_(squares)
        else:
            squares += state["sums"].index_select(0, rows)
            state["sums"].index_copy_(0, rows, squares)
        return group["lr"] / squares.sqrt_().add_(group["eps"])
