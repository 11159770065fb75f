"""The gradient by its definition, and back-propagation through the layers of an MLP, written out."""

from collections.abc import Callable

import torch
from torch import Tensor

from dlref.equations import total


def numerical_gradient(function: Callable[[Tensor], Tensor], x: Tensor, h: float = 1e-5) -> Tensor:
    """∂f/∂x_i = (f(x + h e_i) - f(x - h e_i)) / 2h, wrong by O(h²)."""
    gradient, flat = torch.zeros_like(x).flatten(), x.detach().flatten()
    for i in range(len(flat)):
        above, below = flat.clone(), flat.clone()
        above[i], below[i] = flat[i] + h, flat[i] - h
        gradient[i] = (function(above.view(x.shape)) - function(below.view(x.shape))) / (2 * h)
    return gradient.view(x.shape)


def affine_backward(x: Tensor, weight: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From ∂L/∂y [B, H]: ∂L/∂x_bi = Σ_j w_ji ∂L/∂y_bj, ∂L/∂w_ji = Σ_b x_bi ∂L/∂y_bj, ∂L/∂b_j = Σ_b ∂L/∂y_bj."""
    to_x, to_weight, to_bias = torch.zeros_like(x), torch.zeros_like(weight), torch.zeros_like(weight[:, 0])
    for b in range(slope.shape[0]):
        for j in range(slope.shape[1]):
            to_bias[j] += slope[b, j]
            for i in range(x.shape[1]):
                to_x[b, i] += weight[j, i] * slope[b, j]
                to_weight[j, i] += x[b, i] * slope[b, j]
    return to_x, to_weight, to_bias


def relu_backward(x: Tensor, slope: Tensor) -> Tensor:
    """∂L/∂x = ∂L/∂y where x > 0, else 0."""
    return torch.stack(
        [s if a > 0 else torch.zeros_like(s) for a, s in zip(x.flatten(), slope.flatten(), strict=True)]
    ).view(x.shape)


def sigmoid_backward(y: Tensor, slope: Tensor) -> Tensor:
    """∂L/∂x = ∂L/∂y · y (1 - y), with y = σ(x)."""
    return torch.stack([s * a * (1 - a) for a, s in zip(y.flatten(), slope.flatten(), strict=True)]).view(y.shape)


def cross_entropy_backward(shares: Tensor, targets: Tensor) -> Tensor:
    """Of the softmax and the cross-entropy together: ∂L/∂z_bc = p_bc - t_bc."""
    slope = shares.clone()
    for b, target in enumerate(targets):
        slope[b, target] -= 1
    return slope


def batch_norm_backward(x: Tensor, gain: Tensor, slope: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Ioffe & Szegedy 2015, section 3: through the batch's mean μ and variance σ² to x, γ and β."""
    batch, units = x.shape
    to_x, to_gain, to_shift = torch.zeros_like(x), torch.zeros_like(gain), torch.zeros_like(gain)
    for d in range(units):
        mean = total(x[b, d] for b in range(batch)) / batch
        spread = torch.sqrt(total((x[b, d] - mean) ** 2 for b in range(batch)) / batch + eps)
        normal = [(x[b, d] - mean) / spread for b in range(batch)]
        to_shift[d] = total(slope[b, d] for b in range(batch))
        to_gain[d] = total(slope[b, d] * normal[b] for b in range(batch))
        for b in range(batch):
            to_x[b, d] = gain[d] / spread * (slope[b, d] - to_shift[d] / batch - normal[b] * to_gain[d] / batch)
    return to_x, to_gain, to_shift
