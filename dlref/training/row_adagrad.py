"""Adagrad with one rate for each row of a table, which suits words of very different frequency."""

from typing import Any

import torch


class RowAdagrad(torch.optim.Optimizer):
    """Adagrad (Duchi, Hazan & Singer 2011) whose sum of squares is of a row's mean: g_r is divided by √Σ mean(g_r²).

    No row ever moves by more than the rate in the root of the mean square, however many of its occurrences a batch sums
    up. Gradients may be sparse; a row is what the first dimension counts. Raises ValueError for a negative rate.
    """

    def __init__(self, params: Any, lr: float = 0.05, eps: float = 1e-10) -> None:
        if lr < 0 or eps < 0:
            raise ValueError(f"lr is {lr} and eps {eps}; they take a number from 0 on")
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                if "sums" not in self.state[table]:
                    self.state[table]["sums"] = table.new_zeros(len(table))
                sums = self.state[table]["sums"]
                if table.grad.is_sparse:
                    gradient = table.grad.coalesce()
                    rows, slopes = gradient._indices()[0], gradient._values()
                    squares = sums.index_select(0, rows).add_(slopes.square().mean(1))
                    sums.index_copy_(0, rows, squares)
                    slopes.mul_((group["lr"] / squares.sqrt().add_(group["eps"]))[:, None])
                    table.sub_(gradient)
                else:
                    slopes = table.grad.view(len(table), -1)
                    sums.add_(slopes.square().mean(1))
                    table.sub_((slopes / sums.sqrt().add_(group["eps"])[:, None]).view_as(table), alpha=group["lr"])
