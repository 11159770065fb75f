"""Numerical gradients, and back-propagation through the layers of an MLP, written out."""

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


def affine_backward(x: Tensor, weight: Tensor, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From ∂L/∂y [B, H]: ∂L/∂x_bi = Σ_j w_ji ∂L/∂y_bj, ∂L/∂w_ji = Σ_b x_bi ∂L/∂y_bj, ∂L/∂b_j = Σ_b ∂L/∂y_bj."""
    grad_x, grad_weight, grad_bias = torch.zeros_like(x), torch.zeros_like(weight), torch.zeros_like(weight[:, 0])
    for b in range(grad_out.shape[0]):
        for j in range(grad_out.shape[1]):
            grad_bias[j] += grad_out[b, j]
            for i in range(x.shape[1]):
                grad_x[b, i] += weight[j, i] * grad_out[b, j]
                grad_weight[j, i] += x[b, i] * grad_out[b, j]
    return grad_x, grad_weight, grad_bias


def relu_backward(x: Tensor, grad_out: Tensor) -> Tensor:
    """∂L/∂x = ∂L/∂y where x > 0, else 0."""
    return torch.stack(
        [g if a > 0 else torch.zeros_like(g) for a, g in zip(x.flatten(), grad_out.flatten(), strict=True)]
    ).view(x.shape)


def sigmoid_backward(y: Tensor, grad_out: Tensor) -> Tensor:
    """∂L/∂x = ∂L/∂y · y (1 - y), with y = σ(x)."""
    return torch.stack([g * a * (1 - a) for a, g in zip(y.flatten(), grad_out.flatten(), strict=True)]).view(y.shape)


def cross_entropy_backward(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Softmax and cross-entropy together: ∂L/∂z_bc = p_bc - t_bc."""
    grad_logits = probabilities.clone()
    for b, target in enumerate(targets):
        grad_logits[b, target] -= 1
    return grad_logits


def batch_norm_backward(x: Tensor, scale: Tensor, grad_out: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Ioffe & Szegedy 2015, section 3: through the batch's mean μ and variance σ² to x, γ and β."""
    batch, units = x.shape
    grad_x, grad_scale, grad_bias = torch.zeros_like(x), torch.zeros_like(scale), torch.zeros_like(scale)
    for d in range(units):
        mean = total(x[b, d] for b in range(batch)) / batch
        std = torch.sqrt(total((x[b, d] - mean) ** 2 for b in range(batch)) / batch + eps)
        normalized = [(x[b, d] - mean) / std for b in range(batch)]
        grad_bias[d] = total(grad_out[b, d] for b in range(batch))
        grad_scale[d] = total(grad_out[b, d] * normalized[b] for b in range(batch))
        for b in range(batch):
            grad_x[b, d] = (
                scale[d] / std * (grad_out[b, d] - grad_bias[d] / batch - normalized[b] * grad_scale[d] / batch)
            )
    return grad_x, grad_scale, grad_bias
