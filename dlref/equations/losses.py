"""The losses of feed-forward networks: totals over a batch. B batch, C classes, D outputs."""

import torch
from torch import Tensor

from dlref.equations import total
from dlref.equations.layers import sigmoid, softmax


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:  # [B, D], [B, D] -> scalar
    """½ Σ_b Σ_d (y_bd - t_bd)²."""
    batch, width = outputs.shape
    return total((outputs[b, d] - targets[b, d]) ** 2 for b in range(batch) for d in range(width)) / 2


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:  # [B, C], [B] -> scalar
    """-Σ_b Σ_c t_bc log p_bc with p = softmax, in nats.

    The target's own probability t_bc is 1 - ε, and ε is spread evenly over all classes (Szegedy et al. 2016, section 7).
    """
    nats = torch.zeros((), dtype=logits.dtype)
    for probabilities, target in zip(softmax(logits), targets, strict=True):
        for c, p in enumerate(probabilities):
            t = smoothing / len(probabilities) + (1 - smoothing if c == target else 0)
            nats = nats - t * torch.log(p)
    return nats


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:  # [B, D], [B, D] of 0 and 1 -> scalar
    """-Σ_b Σ_d t log σ(z) + (1 - t) log(1 - σ(z)), in nats: an independent binary label for each output."""
    nats = torch.zeros((), dtype=logits.dtype)
    for p, t in zip(sigmoid(logits).flatten(), targets.flatten(), strict=True):
        nats = nats - t * torch.log(p) - (1 - t) * torch.log(1 - p)
    return nats
