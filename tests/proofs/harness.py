"""Proofs that an equation equals the fast path, and the register of all of them."""

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dlref.equations import (
    attention,
    gradients,
    layers,
    losses,
    ngram,
    optimizers,
    recurrent,
    reinforcement,
    transformer,
    words,
)

MODULES: list[ModuleType] = [
    *(layers, losses, gradients, optimizers, reinforcement, words, ngram, recurrent, attention, transformer)
]
EQUATIONS: dict[str, Callable[..., Any]] = {
    f"{module.__name__.removeprefix('dlref.equations.')}.{name}": function
    for module in MODULES
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__
}
PROOFS: dict[str, Callable[[Any], None]] = {}
EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
Proof = Callable[[Any], None]


def proves(equation: Callable[..., Any]) -> Callable[[Proof], Proof]:
    """Register the proof of an equation. It is called with the equation, and with mutations of it, for which it must fail."""

    def mark(proof: Proof) -> Proof:
        PROOFS[f"{equation.__module__.removeprefix('dlref.equations.')}.{equation.__name__}"] = proof
        return proof

    return mark


def agree(slow: Callable[..., Any], fast: Callable[..., Any], *inputs: Tensor) -> None:
    """Assert that both functions have the same outputs, and the same gradients for random gradients of the outputs."""
    results = []
    for function in (slow, fast):
        leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
        outputs = function(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        generator = torch.Generator().manual_seed(7)
        grad_outputs = [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs]
        total = sum((y * g).sum() for y, g in zip(outputs, grad_outputs, strict=True))
        differentiable = [x for x in leaves if x.requires_grad]
        found = torch.autograd.grad(total, differentiable, allow_unused=True) if total.requires_grad else ()
        gradients = [
            torch.zeros_like(x) if g is None else g.to_dense() for x, g in zip(differentiable, found, strict=False)
        ]
        results.append((outputs, gradients or [torch.zeros_like(x) for x in differentiable]))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(list(mine), list(theirs), **EXACT)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers in float64, different for every shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + hash(shape) % 2**32), dtype=torch.float64)
