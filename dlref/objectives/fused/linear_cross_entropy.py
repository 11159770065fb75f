"""Cross-entropy of a linear layer's logits with its gradient computed in the forward pass, which saves time and memory.

N tokens, D width, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlref.objectives import at_least_float32

SMALL_VOCABULARY = 2000  # tokens


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:  # [N, V], [N] -> scalar, scalar int64
    """The summed cross-entropy -Σ log softmax(logits)[target] in nats, and the number of targets with the largest logit."""
    return F.cross_entropy(logits, targets, reduction="sum"), (logits.argmax(1) == targets).sum()


def count_correct(logits: Tensor, targets: Tensor) -> Tensor:  # [N, V], [N] -> scalar int64
    """(logits.argmax(1) == targets).sum(); among equal logits the first is the argmax.

    The logits are changed temporarily. On a CPU `amax` takes a tenth of the time of `argmax`, which is needed only in the rows
    where another logit equals the target's.
    """
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
        return (logits.argmax(1) == targets).sum()
    positions = row_starts(logits) + targets
    target_logits = logits.view(-1)[positions]
    # `scatter_` on bfloat16 reads the whole tensor.
    largest_others = logits.put_(positions, target_logits.new_full(target_logits.shape, -torch.inf)).amax(1)
    logits.put_(positions, target_logits)
    tied = (target_logits == largest_others).nonzero().squeeze(1)
    first = at_least_float32(logits.index_select(0, tied)).argmax(1) == targets.index_select(0, tied)
    return (target_logits > largest_others).sum() + first.sum()


def row_starts(x: Tensor) -> Tensor:  # [N, V] -> [N]
    """The index of each row's first element in the flattened tensor."""
    return torch.arange(0, x.numel(), x.shape[1], device=x.device)


class LinearCrossEntropy(torch.autograd.Function):
    """cross_entropy(F.linear(x, weight, bias), targets), without keeping the logits for the backward pass.

    x [N, D], weight [V, D], bias [V], targets [N] int64 -> scalar in nats, scalar int64. The probabilities overwrite the
    logits, in the product's type, and become their gradient: p - 1 for the target, p for the others. So a large vocabulary's
    logits are read and written half as often. A probability that underflows counts as the smallest of its type, and one
    that rounds to 1 as 1; a small vocabulary, which costs little, is computed in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        ctx.dtypes = x.dtype, weight.dtype
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x, weight, bias = (part.to(torch.get_autocast_dtype(device)) for part in (x, weight, bias))
        logits = F.linear(x, weight, bias)
        if logits.shape[1] < SMALL_VOCABULARY:
            logits = at_least_float32(logits)
        hits = count_correct(logits, targets)  # before softmax, which may round different logits to equal probabilities
        probabilities = torch.softmax(logits, 1, out=logits)
        positions = row_starts(probabilities) + targets
        target_probabilities = probabilities.flatten()[positions]
        grad_logits = probabilities.put_(positions, target_probabilities - 1).to(x.dtype)
        ctx.save_for_backward(x, weight, grad_logits)
        ctx.mark_non_differentiable(hits)
        tiny = torch.finfo(target_probabilities.dtype).tiny
        return -at_least_float32(target_probabilities).clamp(min=tiny).log().sum(), hits

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, _: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, grad_logits = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        scale = grad_out.to(x.dtype)
        grad_x = (grad_logits @ weight).to(x_dtype) * grad_out
        grad_weight = (grad_logits.T @ (x * scale)).to(weight_dtype)
        grad_bias = (scale.expand(1, len(x)) @ grad_logits)[0].to(
            weight_dtype
        )  # a product is several times as fast as a sum
        return grad_x, grad_weight, grad_bias, None
