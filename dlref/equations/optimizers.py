"""One update of every optimizer: w weights, g gradient, η learning rate. Each returns the new weights and its new state.

Tensors of any shape are updated element by element, except by Muon, which takes matrices.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dlref.equations import tensor, total


def sgd(w: Tensor, g: Tensor, lr: float) -> Tensor:
    """w ← w - η g (Robbins & Monro 1951)."""
    return each(lambda w, g: w - lr * g, w, g)


def momentum(w: Tensor, g: Tensor, v: Tensor, lr: float, momentum: float) -> tuple[Tensor, Tensor]:
    """v ← α v + g, w ← w - η v (Polyak 1964, with η outside of the velocity)."""
    v = each(lambda v, g: momentum * v + g, v, g)
    return each(lambda w, v: w - lr * v, w, v), v


def nesterov(w: Tensor, g: Tensor, v: Tensor, lr: float, momentum: float) -> tuple[Tensor, Tensor]:
    """v ← α v + g, w ← w - η (g + α v): Sutskever et al. 2013, equation 3 and 4, in the weights where g was taken."""
    v = each(lambda v, g: momentum * v + g, v, g)
    return each(lambda w, g, v: w - lr * (g + momentum * v), w, g, v), v


def adagrad(w: Tensor, g: Tensor, h: Tensor, lr: float, eps: float) -> tuple[Tensor, Tensor]:
    """h ← h + g², w ← w - η g / (√h + ε) (Duchi et al. 2011)."""
    h = each(lambda h, g: h + g**2, h, g)
    return each(lambda w, g, h: w - lr * g / (torch.sqrt(h) + eps), w, g, h), h


def rmsprop(w: Tensor, g: Tensor, h: Tensor, lr: float, decay: float, eps: float) -> tuple[Tensor, Tensor]:
    """h ← ρ h + (1 - ρ) g², w ← w - η g / (√h + ε) (Tieleman & Hinton 2012)."""
    h = each(lambda h, g: decay * h + (1 - decay) * g**2, h, g)
    return each(lambda w, g, h: w - lr * g / (torch.sqrt(h) + eps), w, g, h), h


def adam(
    w: Tensor, g: Tensor, m: Tensor, v: Tensor, step: int, lr: float, beta1: float, beta2: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Kingma & Ba 2015, algorithm 1; `step` counts from 1.

    m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g², w ← w - η m̂ / (√v̂ + ε), m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ).
    """
    m = each(lambda m, g: beta1 * m + (1 - beta1) * g, m, g)
    v = each(lambda v, g: beta2 * v + (1 - beta2) * g**2, v, g)

    def update(w: Tensor, m: Tensor, v: Tensor) -> Tensor:
        return w - lr * (m / (1 - beta1**step)) / (torch.sqrt(v / (1 - beta2**step)) + eps)

    return each(update, w, m, v), m, v


def adamw(
    w: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loshchilov & Hutter 2019, algorithm 2: Adam plus the decay w ← w - η λ w, which the moments do not see."""
    shrunk = each(lambda w: w - lr * decay * w, w)
    return adam(shrunk, g, m, v, step, lr, beta1, beta2, eps)


def muon(
    w: Tensor, g: Tensor, v: Tensor, lr: float, momentum: float, decay: float, steps: int
) -> tuple[Tensor, Tensor]:  # matrices [N, M]
    """Jordan et al. 2024: Nesterov's momentum, made orthogonal, and weight decay as in AdamW.

    v ← μ v + (1 - μ) g, u = (1 - μ) g + μ v, w ← w - η λ w - η √max(1, N / M) orthogonal(u).
    """
    v = each(lambda v, g: momentum * v + (1 - momentum) * g, v, g)
    u = orthogonal(each(lambda g, v: (1 - momentum) * g + momentum * v, g, v), steps)
    rows, columns = w.shape
    scale = max(1, rows / columns) ** 0.5
    return each(lambda w, u: w - lr * decay * w - lr * scale * u, w, u), v


def orthogonal(x: Tensor, steps: int) -> Tensor:  # [N, M] -> [N, M]
    """The Newton–Schulz iteration towards U Vᵀ for x = U S Vᵀ, which leaves singular values between about 0.7 and 1.2.

    X ← X / ‖X‖, then X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X with a, b, c = 3.4445, -4.775, 2.0315.
    """
    a, b, c = 3.4445, -4.775, 2.0315
    length = torch.sqrt(total(number**2 for number in x.flatten()))
    x = each(lambda number: number / length, x)
    for _ in range(steps):
        square = product(x, transposed(x))
        once, twice = product(square, x), product(product(square, square), x)
        x = each(lambda x, once, twice: a * x + b * once + c * twice, x, once, twice)
    return x


def product(x: Tensor, y: Tensor) -> Tensor:  # [N, K], [K, M] -> [N, M]
    """z_ij = Σ_k x_ik y_kj."""
    return tensor(
        [[total(x[i, k] * y[k, j] for k in range(x.shape[1])) for j in range(y.shape[1])] for i in range(x.shape[0])]
    )


def transposed(x: Tensor) -> Tensor:
    return tensor([[x[i, j] for i in range(x.shape[0])] for j in range(x.shape[1])])


def each(update: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """The update, applied to every element independently."""
    flat = [update(*numbers) for numbers in zip(*(t.flatten() for t in tensors), strict=True)]
    return tensor(flat).view(tensors[0].shape)
