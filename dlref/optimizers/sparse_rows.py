"""Optimizers that know the rows of a table, which suits words of very different frequency. Gradients may be sparse."""

from typing import Any

import torch
from torch import Tensor


class Rows(torch.optim.Optimizer):
    """Moves each row of a parameter, which its first dimension counts, by its gradient times a rate of its own."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                gradient = table.grad.coalesce() if table.grad.is_sparse else table.grad
                slopes = (gradient.values() if gradient.is_sparse else gradient).view(-1, table[0].numel())
                rows = gradient.indices()[0] if gradient.is_sparse else None
                slopes.mul_(-self.rates(slopes, rows, group, table)[:, None])
                if rows is None:
                    table.add_(gradient)
                else:  # in half the time of adding a sparse tensor
                    table.view(len(table), -1).index_add_(0, rows, slopes)

    def rates(self, slopes: Tensor, rows: Tensor | None, group: dict[str, Any], table: Tensor) -> Tensor:
        """A rate for each row [R] of slopes [R, D]: those of `rows` [R], or all of the table."""
        raise NotImplementedError


class RowSGD(Rows):
    """Gradient descent in which no row moves farther than `longest` at once.

    The updates of a word that occurs often in a batch are all taken at the same place and summed: without a limit they
    can carry it far beyond where the next ones would have led back.
    """

    def __init__(self, params: Any, lr: float, longest: float = 0.5) -> None:
        if lr < 0 or longest <= 0:
            raise ValueError(f"lr is {lr}, from 0 on, and longest {longest}, above 0")
        super().__init__(params, {"lr": lr, "longest": longest})

    def rates(self, slopes: Tensor, rows: Tensor | None, group: dict[str, Any], table: Tensor) -> Tensor:
        return (group["longest"] / slopes.norm(dim=1)).clamp_(max=group["lr"])


class RowAdagrad(Rows):
    """Adagrad (Duchi, Hazan & Singer 2011) with one sum of squares for each row: lr / √Σ mean(g_r²) is its rate."""

    def __init__(self, params: Any, lr: float = 0.05, eps: float = 1e-10) -> None:
        if lr < 0 or eps < 0:
            raise ValueError(f"lr is {lr} and eps {eps}; they take a number from 0 on")
        super().__init__(params, {"lr": lr, "eps": eps})

    def rates(self, slopes: Tensor, rows: Tensor | None, group: dict[str, Any], table: Tensor) -> Tensor:
        state, squares = self.state[table], slopes.square().mean(1)
        if "sums" not in state:
            state["sums"] = table.new_zeros(len(table))
        if rows is None:
            squares += state["sums"]
            state["sums"].copy_(squares)
        else:
            squares += state["sums"].index_select(0, rows)
            state["sums"].index_copy_(0, rows, squares)
        return group["lr"] / squares.sqrt_().add_(group["eps"])
