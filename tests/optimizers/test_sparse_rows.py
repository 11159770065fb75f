"""Optimizers of rows: sparse gradients move what dense ones move, and no row farther than it may."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dlref.optimizers.sparse_rows import RowAdagrad, RowSGD

TABLE = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradients() -> list[Tensor]:
    """Of rows 1, 2 and 4, and then of 2 and 5."""
    dense = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dense[0, [0, 3, 5]] = 0
    dense[1, [0, 1, 3, 4]] = 0
    return list(dense)


def moved(kind: Any, sparse: bool, **settings: Any) -> list[Tensor]:
    table = torch.nn.Parameter(TABLE.clone())
    optimizer, seen = kind([table], **settings), []
    for gradient in gradients():
        rows = gradient.abs().sum(1).nonzero()[:, 0]
        table.grad = torch.sparse_coo_tensor(rows[None], gradient[rows], gradient.shape) if sparse else gradient.clone()
        optimizer.step()
        seen.append(table.detach().clone())
    return seen


@pytest.mark.parametrize("settings", [{"lr": 0.1}, {"lr": 3.0}])
@pytest.mark.parametrize("kind", [RowSGD, RowAdagrad])
def test_sparse_gradients_move_what_dense_ones_move(kind: Any, settings: dict[str, float]) -> None:
    for one, other in zip(moved(kind, True, **settings), moved(kind, False, **settings), strict=True):
        torch.testing.assert_close(one, other)


def test_short_steps_are_those_of_gradient_descent_and_long_ones_are_cut() -> None:
    plain = moved(torch.optim.SGD, False, lr=0.01)
    torch.testing.assert_close(moved(RowSGD, True, lr=0.01, max_row_norm=1.0), plain)
    first = moved(RowSGD, True, lr=100.0, max_row_norm=0.25)[0] - TABLE
    torch.testing.assert_close(first.norm(dim=1)[[1, 2, 4]], torch.full((3,), 0.25, dtype=torch.float64))
    directions = -gradients()[0][[1, 2, 4]]
    torch.testing.assert_close(first[[1, 2, 4]] / 0.25, directions / directions.norm(dim=1, keepdim=True))


def test_each_row_has_a_rate_of_its_own() -> None:
    """By hand, row by row."""
    first, second = gradients()
    steps = moved(RowAdagrad, True, lr=0.5)
    for row in range(6):
        sums, place = 0.0, TABLE[row]
        for gradient, seen in zip((first, second), steps, strict=True):
            sums += float(gradient[row].square().mean())
            place = place - (0.5 / (sums**0.5 + 1e-10) * gradient[row] if sums else 0)
            torch.testing.assert_close(seen[row], place)


@pytest.mark.parametrize(("kind", "settings"), [(RowSGD, {"lr": 1.0, "max_row_norm": 0.0}), (RowAdagrad, {"lr": -1.0})])
def test_impossible_settings_are_refused(kind: Any, settings: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        kind([torch.nn.Parameter(TABLE)], **settings)
