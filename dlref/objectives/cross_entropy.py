"""Cross-entropy of an affine layer's scores, with its slopes formed at once: the dearest part of a language model's step."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlref.objectives import at_least_float32

FEW = 2000  # words


def cross_entropy(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:  # [N, V], [N] -> scalar, scalar int64
    """-Σ log softmax(scores)[target] in nats, and how often the target is the likeliest."""
    return F.cross_entropy(scores, targets, reduction="sum"), (scores.argmax(1) == targets).sum()


class LinearCrossEntropy(torch.autograd.Function):
    """`cross_entropy` of the scores x Wᵀ + b.

    x [N, D], weight [V, D], bias [V], targets [N] int64 -> scalar in nats, scalar int64. The same as the layer and
    `cross_entropy` behind it, but the chances are kept in the type of the product and become the slopes where they lie: a
    large vocabulary's scores are read and written half as often. A chance too small for its type counts as its smallest, and
    one too near 1 as 1; so those of a small vocabulary, which costs little, are taken in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        ctx.types = x.dtype, weight.dtype
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x, weight, bias = (part.to(torch.get_autocast_dtype(device)) for part in (x, weight, bias))
        scores = F.linear(x, weight, bias)
        if scores.shape[1] < FEW:
            scores = at_least_float32(scores)
        chances = torch.softmax(scores, 1, out=scores)
        places = targets + torch.arange(0, chances.numel(), chances.shape[1], device=x.device)
        right = chances.flatten()[places]
        # Chances are not negative, so their bits are in the same order, and whole numbers are compared faster.
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[chances.element_size()]
        hits = (right.view(bits) == chances.view(bits).amax(1)).sum()
        chances.put_(places, right - 1)  # p - 1 of the target, p of the others: the slopes by the scores
        ctx.save_for_backward(x, weight, chances.to(x.dtype))
        ctx.mark_non_differentiable(hits)
        return -at_least_float32(right).clamp(min=torch.finfo(right.dtype).tiny).log().sum(), hits

    @staticmethod
    def backward(ctx: Any, slope: Tensor, _: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, slopes = ctx.saved_tensors
        of_x, of_weight = ctx.types
        share = slope.to(x.dtype)
        of_bias = (share.expand(1, len(x)) @ slopes)[0]  # a product is several times as fast as a sum
        return (slopes @ weight).to(of_x) * slope, (slopes.T @ (x * share)).to(of_weight), of_bias.to(of_weight), None
