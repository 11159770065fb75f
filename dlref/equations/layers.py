"""Layers of feed-forward networks. B batch, D and H units, C and F channels, Y × X pixels, K × L kernel.

Rumelhart, Hinton & Williams 1986 unless a function names its own source.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dlref.equations import tensor, total


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # [B, D], [H, D], [H] -> [B, H]
    """y_j = b_j + Σ_i w_ji x_i."""
    return tensor(
        [[bias[j] + total(weight[j, i] * row[i] for i in range(len(row))) for j in range(len(bias))] for row in x]
    )


def step(x: Tensor) -> Tensor:
    """1 above 0, else 0 (McCulloch & Pitts 1943)."""
    return elementwise(x, lambda a: torch.ones_like(a) if a > 0 else torch.zeros_like(a))


def sigmoid(x: Tensor) -> Tensor:
    """σ(a) = 1 / (1 + e^-a)."""
    return elementwise(x, lambda a: 1 / (1 + torch.exp(-a)))


def tanh(x: Tensor) -> Tensor:
    """(e^a - e^-a) / (e^a + e^-a)."""
    return elementwise(x, lambda a: (torch.exp(a) - torch.exp(-a)) / (torch.exp(a) + torch.exp(-a)))


def relu(x: Tensor) -> Tensor:
    """max(0, a) (Nair & Hinton 2010)."""
    return elementwise(x, lambda a: a if a > 0 else torch.zeros_like(a))


def gelu(x: Tensor) -> Tensor:
    """a Φ(a), with Φ the standard normal distribution function (Hendrycks & Gimpel 2016)."""
    return elementwise(x, lambda a: a * (1 + torch.erf(a / math.sqrt(2))) / 2)


def softmax(x: Tensor) -> Tensor:  # [B, C] -> [B, C]
    """p_c = e^x_c / Σ_k e^x_k (Bridle 1990)."""
    return tensor([[torch.exp(row[c]) / total(torch.exp(a) for a in row) for c in range(len(row))] for row in x])


def convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    """y_bfij = b_f + Σ_c Σ_k Σ_l w_fckl x_bc(s i + k - p)(s j + l - p), zero outside of the image (LeCun et al. 1989).

    [B, C, Y, X], [F, C, K, L], [F] -> [B, F, (Y + 2p - K) / s + 1, (X + 2p - L) / s + 1].
    """
    filters, channels, height, width = weight.shape

    def response(image: Tensor, f: int, i: int, j: int) -> Tensor:
        y = bias[f]
        for c in range(channels):
            for k in range(height):
                for l in range(width):  # noqa: E741
                    row, column = stride * i + k - padding, stride * j + l - padding
                    if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                        y = y + weight[f, c, k, l] * image[c, row, column]
        return y

    rows, columns = (positions(x.shape[2 + d], weight.shape[2 + d], stride, padding) for d in range(2))
    return tensor(
        [
            [[[response(image, f, i, j) for j in range(columns)] for i in range(rows)] for f in range(filters)]
            for image in x
        ]
    )


def positions(size: int, kernel: int, stride: int, padding: int) -> int:
    """Number of positions of a kernel along one side of an image: ⌊(size + 2p - K) / s⌋ + 1."""
    return (size + 2 * padding - kernel) // stride + 1


def max_pooling(
    x: Tensor, size: int, stride: int
) -> Tensor:  # [B, C, Y, X] -> [B, C, (Y - K) / s + 1, (X - K) / s + 1]
    """y_bcij = max over k, l < K of x_bc(s i + k)(s j + l) (Zhou & Chellappa 1988)."""

    def largest(image: Tensor, i: int, j: int) -> Tensor:
        most = image[stride * i, stride * j]
        for k in range(size):
            for l in range(size):  # noqa: E741
                if image[stride * i + k, stride * j + l] > most:
                    most = image[stride * i + k, stride * j + l]
        return most

    rows, columns = (positions(x.shape[2 + d], size, stride, padding=0) for d in range(2))
    return tensor(
        [[[[largest(channel, i, j) for j in range(columns)] for i in range(rows)] for channel in image] for image in x]
    )


def batch_norm(x: Tensor, scale: Tensor, bias: Tensor, eps: float) -> Tensor:  # [B, D], [D], [D] -> [B, D]
    """Ioffe & Szegedy 2015, algorithm 1: y = γ (x - μ) / √(σ² + ε) + β, with mean and variance of the batch."""
    batch, units = x.shape
    y: list[list[Tensor]] = [[] for _ in range(batch)]
    for d in range(units):
        mean = total(x[b, d] for b in range(batch)) / batch
        variance = total((x[b, d] - mean) ** 2 for b in range(batch)) / batch
        for b in range(batch):
            y[b].append(scale[d] * (x[b, d] - mean) / torch.sqrt(variance + eps) + bias[d])
    return tensor(y)


def layer_norm(x: Tensor, scale: Tensor, bias: Tensor, eps: float) -> Tensor:  # [B, D], [D], [D] -> [B, D]
    """Ba, Kiros & Hinton 2016, equations 3 and 4: the same with mean and variance of each row."""
    rows = []
    for row in x:
        mean = total(row) / len(row)
        std = torch.sqrt(total((value - mean) ** 2 for value in row) / len(row) + eps)
        rows.append([scale[d] * (value - mean) / std + bias[d] for d, value in enumerate(row)])
    return tensor(rows)


def running_statistics(x: Tensor, mean: Tensor, variance: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
    """The statistics used in evaluation, after one more batch: (1 - m) old + m new, the variance unbiased (section 3.1)."""
    batch, units = x.shape
    means, variances = [], []
    for d in range(units):
        new = total(x[b, d] for b in range(batch)) / batch
        unbiased = total((x[b, d] - new) ** 2 for b in range(batch)) / (batch - 1)
        means.append((1 - momentum) * mean[d] + momentum * new)
        variances.append((1 - momentum) * variance[d] + momentum * unbiased)
    return tensor(means), tensor(variances)


def dropout(x: Tensor, kept: Tensor, probability: float) -> Tensor:
    """Srivastava et al. 2014, scaled in training: x / (1 - p) where the unit is kept, else 0."""
    flat = [
        a / (1 - probability) if keep else torch.zeros_like(a)
        for a, keep in zip(x.flatten(), kept.flatten(), strict=True)
    ]
    return tensor(flat).view(x.shape)


def lateral(
    z: Tensor, u: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor
) -> Tensor:  # [B, D], [B, D], [D] × 4 -> [B, D]
    """ẑ_i = (z_i - m_i) σ(c_i u_i + d_i) + m_i with m_i = a_i u_i + b_i (after Rasmus et al. 2015, section 3)."""
    y: list[list[Tensor]] = []
    for noisy, above in zip(z, u, strict=True):
        y.append([])
        for i in range(len(noisy)):
            middle = a[i] * above[i] + b[i]
            y[-1].append((noisy[i] - middle) / (1 + torch.exp(-(c[i] * above[i] + d[i]))) + middle)
    return tensor(y)


def elementwise(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    return tensor([function(a) for a in x.flatten()]).view(x.shape)
