"""Every optimizer's update as printed equals the fast path, over five steps of random gradients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from dlref.equations import optimizers
from tests.proofs.harness import EXACT, proves, random

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def agree_over_steps(
    make: Make, update: Callable[[Tensor, Tensor, int, list[Tensor]], tuple[Tensor, ...]], states: int
) -> None:
    """Assert that five steps of the optimizer equal those of `update(weights, gradient, step, state) -> weights, *state`."""
    w, state = random(3, 2), [torch.zeros(3, 2, dtype=torch.float64) for _ in range(states)]
    parameter = nn.Parameter(w.clone())
    optimizer = make([parameter])
    for step in range(1, 6):
        g = random(3, 2, seed=step) * step
        w, *state = update(w, g, step, state)
        parameter.grad = g.clone()
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), w, **EXACT)


@proves(optimizers.sgd)
def sgd(equation: Any) -> None:
    agree_over_steps(lambda p: torch.optim.SGD(p, lr=0.3), lambda w, g, step, state: (equation(w, g, 0.3),), 0)


@proves(optimizers.momentum)
def momentum(equation: Any) -> None:
    fast = lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.8)  # noqa: E731
    agree_over_steps(fast, lambda w, g, step, state: equation(w, g, *state, 0.3, 0.8), 1)


@proves(optimizers.nesterov)
def nesterov(equation: Any) -> None:
    fast = lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.8, nesterov=True)  # noqa: E731
    agree_over_steps(fast, lambda w, g, step, state: equation(w, g, *state, 0.3, 0.8), 1)


@proves(optimizers.adagrad)
def adagrad(equation: Any) -> None:
    fast = lambda p: torch.optim.Adagrad(p, lr=0.3, eps=1e-2)  # noqa: E731
    agree_over_steps(fast, lambda w, g, step, state: equation(w, g, *state, 0.3, 1e-2), 1)


@proves(optimizers.rmsprop)
def rmsprop(equation: Any) -> None:
    fast = lambda p: torch.optim.RMSprop(p, lr=0.3, alpha=0.9, eps=1e-2)  # noqa: E731
    agree_over_steps(fast, lambda w, g, step, state: equation(w, g, *state, 0.3, 0.9, 1e-2), 1)


@proves(optimizers.adam)
def adam(equation: Any) -> None:
    fast = lambda p: torch.optim.Adam(p, lr=0.3, betas=(0.8, 0.9), eps=1e-2)  # noqa: E731
    agree_over_steps(fast, lambda w, g, step, state: equation(w, g, *state, step, 0.3, 0.8, 0.9, 1e-2), 2)


@proves(optimizers.adamw)
def adamw(equation: Any) -> None:
    for fused in (False, True):
        fast = lambda p, f=fused: torch.optim.AdamW(  # noqa: E731
            p, lr=0.3, betas=(0.8, 0.9), eps=1e-2, weight_decay=0.2, fused=f
        )
        agree_over_steps(fast, lambda w, g, step, state: equation(w, g, *state, step, 0.3, 0.8, 0.9, 1e-2, 0.2), 2)


@contextmanager
def exact_muon() -> Iterator[None]:
    """torch rounds to bfloat16 within the Newton–Schulz iteration; here it does not."""
    to = torch.Tensor.to

    def unrounded(tensor: Tensor, *given: Any, **named: Any) -> Tensor:  # torch's way since 2.15
        return tensor.clone() if named.get("dtype") is torch.bfloat16 else to(tensor, *given, **named)

    with (
        mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.clone),
        mock.patch.object(torch.Tensor, "to", unrounded),
    ):
        yield


@proves(optimizers.muon)
def muon(equation: Any) -> None:
    fast = lambda p: torch.optim.Muon(p, lr=0.3, momentum=0.8, weight_decay=0.2, ns_steps=3)  # noqa: E731
    with exact_muon():
        agree_over_steps(fast, lambda w, g, step, state: equation(w, g, *state, 0.3, 0.8, 0.2, 3), 1)


@proves(optimizers.orthogonal)
def orthogonal(equation: Any) -> None:
    for shape in ((2, 3), (4, 2)):
        parameter, gradient = nn.Parameter(torch.zeros(shape, dtype=torch.float64)), random(*shape)
        parameter.grad = gradient.clone()
        with exact_muon():
            lr = max(1, shape[0] / shape[1]) ** -0.5  # cancels its scale
            torch.optim.Muon([parameter], lr=lr, momentum=0.0, nesterov=False, ns_steps=5).step()
        torch.testing.assert_close(equation(gradient, 5), -parameter.detach(), **EXACT)


def test_muon_moves_almost_along_the_polar_factor() -> None:
    """After five steps every singular value lies between 0.6 and 1.3, the singular vectors are those of the gradient."""
    gradient = random(3, 4)
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    found = u.T @ optimizers.orthogonal(gradient, 5) @ v.T
    torch.testing.assert_close(found, found.diagonal().diag(), **EXACT)
    assert ((found.diagonal() > 0.6) & (found.diagonal() < 1.3)).all()


@proves(optimizers.product)
def product(equation: Any) -> None:
    torch.testing.assert_close(equation(random(2, 3), random(3, 4)), random(2, 3) @ random(3, 4), **EXACT)


@proves(optimizers.transposed)
def transposed(equation: Any) -> None:
    torch.testing.assert_close(equation(random(2, 3)), random(2, 3).T, **EXACT)


@proves(optimizers.each)
def each(equation: Any) -> None:
    x, y = random(2, 3), random(2, 3, seed=1)
    torch.testing.assert_close(equation(lambda a, b: a - 2 * b, x, y), x - 2 * y, **EXACT)
