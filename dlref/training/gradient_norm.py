"""The gradient as one long vector, whether its rows are dense or sparse (word vectors)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dlref import operators
from dlref.errors import DivergedError
from dlref.metrics import Mean


def none(module: nn.Module) -> bool:
    """Whether nothing of it is trained."""
    return not any(p.requires_grad for p in module.parameters())


def clear(parameters: Iterable[nn.Parameter]) -> None:
    """What `optimizer.zero_grad` does, without its hooks and grouping, which small steps notice."""
    for parameter in parameters:
        parameter.grad = None


def values(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """What the gradients are made of: dense ones whole, sparse ones as their rows, each row once."""
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
    """The Euclidean norm; not finite if any entry is not."""
    norms = operators.norms(gradient) if gradient else []
    # On a GPU each reading waits for it; on the CPU to stack them takes longer than the readings.
    together = norms and norms[0].device.type != "cpu"
    return math.hypot(*(torch.stack(norms).tolist() if together else map(float, norms)))


def norm_on_device(gradient: list[Tensor]) -> Tensor:
    """The same as a scalar in float64 on the gradient's device, which is not waited for."""
    norms = operators.norms(gradient) if gradient else [torch.zeros(())]
    return torch.linalg.vector_norm(operators.as_float64(torch.stack(norms)))


def clip_factor(norm: float | Tensor, most: float | None) -> float | Tensor:
    """The factor, at most 1, that brings a gradient of this norm to a norm of at most `most`."""
    if not most:
        return 1.0
    if isinstance(norm, Tensor):
        return (most / norm.clamp(min=1e-12)).clamp(max=1.0)
    return min(1.0, most / max(norm, 1e-12))


def scale_(gradient: list[Tensor], factor: float | Tensor) -> None:
    if gradient and (isinstance(factor, Tensor) or factor != 1):
        operators.multiply_(gradient, factor)


def require_finite(step: int, loss: Mean, norm: float, rate: float, kept: str) -> None:
    """Raise DivergedError where the loss or the gradient norm of a step is not finite; `kept` says what it has not reached."""
    if not math.isfinite(loss.total + norm):
        raise DivergedError(
            f"step {step} is not finite: loss {loss.value:g}, gradient norm {norm:g}, learning rate {rate:g}; {kept}: lower "
            "optimizer.lr or set trainer.clip_norm, and start again or, where there is a checkpoint, resume"
        )
