"""The loss of negative sampling, computed only where it counts: pairs in a band of the logits, and negatives behind it.

G blocks of K words; W positions of a window; S negatives that a block shares; D width.
"""

from typing import Any

import torch
from torch import Tensor

from dlref.objectives import at_least_float32


class BandedNegativeSampling(torch.autograd.Function):
    """With logits = inputs @ outputs.mT, whose last S columns are those of the negatives, and weights [G, K, 1]:
    -(pairs * F.logsigmoid(band(logits, W))).sum() - (weights * F.logsigmoid(-logits[:, :, -S:])).sum().

    inputs [G, K, D], outputs [G, K + W - 1 + S, D], pairs [G, K, W] bool, weights [G, K, 1] -> scalar. The sigmoid is
    computed once, for the loss and its gradient σ(x) - 1 or weight · σ(x), and only where these are not 0.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, outputs: Tensor, pairs: Tensor, weights: Tensor) -> Tensor:
        logits, width = inputs @ outputs.mT, pairs.shape[2]
        # Clamped at -80, where σ is not yet 0.
        pair_logits = at_least_float32(band(logits, width)).clamp(min=-80)
        negative_logits = at_least_float32(logits[:, :, logits.shape[1] + width - 1 :]).clamp(min=-80)
        pair_sigmoid, negative_sigmoid = pair_logits.sigmoid_(), negative_logits.sigmoid()
        negative_log = negative_sigmoid.log().sub_(negative_logits)  # log σ(-x), exact also where σ(x) rounds to 1
        ctx.save_for_backward(inputs, outputs, pairs, weights, pair_sigmoid, negative_sigmoid)
        return -(pair_sigmoid.log().mul_(pairs).sum() + (negative_log.sum(2, True) * weights).sum())

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, None, None]:
        inputs, outputs, pairs, weights, pair_sigmoid, negative_sigmoid = ctx.saved_tensors
        grad_logits = inputs.new_zeros(len(inputs), inputs.shape[1], outputs.shape[1])
        band(grad_logits, pairs.shape[2]).copy_((pair_sigmoid - 1).mul_(pairs).mul_(grad_out))
        grad_logits[:, :, -negative_sigmoid.shape[2] :] = negative_sigmoid * (weights * grad_out)
        return grad_logits @ outputs, grad_logits.mT @ inputs, None, None


def band(matrix: Tensor, width: int) -> Tensor:  # [G, K, E] -> [G, K, width], a view
    """The entries k … k + width - 1 of each row k."""
    blocks, rows, columns = matrix.shape
    return matrix.as_strided((blocks, rows, width), (rows * columns, columns + 1, 1))


def band_matrix(entries: Tensor) -> Tensor:  # [G, K, W] -> [G, K, K + W - 1]
    """The matrix with these entries as its band and 0 elsewhere."""
    blocks, rows, width = entries.shape
    matrix = entries.new_zeros(blocks, rows, rows + width - 1)
    band(matrix, width).copy_(entries)
    return matrix
