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


def correct(logits: Tensor, targets: Tensor) -> Tensor:  # [N, V], [N] -> scalar int64
    """How many targets are the argmax of their logits; of equal logits that is the first.

    The logits are changed for a moment. On a CPU `amax` takes a tenth of the time of `argmax`, which is then left for the rows
    in which the target's logit equals the largest of the others.
    """
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
        return (logits.argmax(1) == targets).sum()
    places = row_starts(logits) + targets
    own = logits.view(-1)[places]
    # `scatter_` on bfloat16 reads the whole tensor.
    others = logits.put_(places, own.new_full(own.shape, -torch.inf)).amax(1)
    logits.put_(places, own)
    tied = (own == others).nonzero().squeeze(1)
    first = at_least_float32(logits.index_select(0, tied)).argmax(1) == targets.index_select(0, tied)
    return (own > others).sum() + first.sum()


def row_starts(x: Tensor) -> Tensor:  # [N, V] -> [N]
    """The index of each row's first element in the flattened tensor."""
    return torch.arange(0, x.numel(), x.shape[1], device=x.device)


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
        hits = correct(scores, targets)  # chances that round to the same number may have different scores
        chances = torch.softmax(scores, 1, out=scores)
        places = row_starts(chances) + targets
        right = chances.flatten()[places]
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
