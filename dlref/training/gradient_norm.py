"""Norm, scaling and clipping of the gradient of all parameters, dense or sparse (word vectors)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dlref import operators
from dlref.errors import DivergedError
from dlref.metrics import Mean


def clear(parameters: Iterable[nn.Parameter]) -> None:
    """`optimizer.zero_grad` without its hooks and grouping, which take time in small steps."""
    for parameter in parameters:
        parameter.grad = None


def backward(loss: Mean, factor: float) -> None:
    """`loss.total.backward()`, times a factor.

    The trainer's factor is one over the count of the step before. This step's count is mostly the same, so nothing is left to
    divide afterwards: that saves 5 % of a small network's step, and keeps gradients of sums within the range of float16.
    The plain equivalent is a factor of 1, and the division of each gradient by this step's count.
    """
    total = torch.as_tensor(loss.total)
    total.backward(torch.full_like(total, factor))


def values(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients as dense tensors: of a sparse one its rows, each row once."""
    found = []
    for parameter in parameters:
        if parameter.grad is not None:
            if parameter.grad.is_sparse:
                parameter.grad = operators.coalesced(parameter.grad)
                found.append(parameter.grad.values())
            else:
                found.append(parameter.grad)
    return found


def norm(gradient: list[Tensor]) -> float:
    """The Euclidean norm; not finite if any element is not."""
    norms = operators.norms(gradient) if gradient else []
    # On a GPU each read waits for it, so there is one; on the CPU stacking takes longer than the reads.
    on_gpu = norms and norms[0].device.type != "cpu"
    return math.hypot(*(torch.stack(norms).tolist() if on_gpu else map(float, norms)))


def norm_on_device(gradient: list[Tensor]) -> Tensor:
    """The norm as a float64 scalar on the gradient's device, without waiting for it."""
    norms = operators.norms(gradient) if gradient else [torch.zeros(())]
    return torch.linalg.vector_norm(operators.as_float64(torch.stack(norms)))


def clip_factor(norm: float | Tensor, max_norm: float | None) -> float | Tensor:
    """The factor, at most 1, that brings a gradient of this norm to a norm of at most `max_norm`."""
    if not max_norm:
        return 1.0
    if isinstance(norm, Tensor):
        return (max_norm / norm.clamp(min=1e-12)).clamp(max=1.0)
    return min(1.0, max_norm / max(norm, 1e-12))


def scale_(gradient: list[Tensor], factor: float | Tensor) -> None:
    if gradient and (isinstance(factor, Tensor) or factor != 1):
        operators.multiply_(gradient, factor)


def require_finite(step: int, loss: Mean, norm: float, rate: float, consequence: str) -> None:
    """Raise DivergedError, which states the consequence, where the loss or the gradient norm of a step is not finite."""
    if not math.isfinite(loss.total + norm):
        raise DivergedError(
            f"step {step} is not finite: loss {loss.value:g}, gradient norm {norm:g}, learning rate {rate:g}; {consequence}: "
            "lower optimizer.lr or set trainer.clip_norm, and start again or, where there is a checkpoint, resume"
        )
