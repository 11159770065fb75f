"""Scaled dot-product attention in blocks of queries, for long sequences: Vaswani et al. 2017, equation 1.

B batch, H heads, T queries, S keys, K dimensions of a head.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dlref import operators

BLOCK = 256  # queries whose attention weights are in memory at a time


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, visible: Tensor | None = None) -> Tensor:
    """Outputs [B, H, T, K] of attention from queries [B, H, T, K] to keys and values [B, H, S, K].

    Keys are masked where not `visible` [B, S]; with `causal`, S = T and query t sees keys up to t. Equals
    F.scaled_dot_product_attention, which is used except for gradients on a CPU, where it is slow in bfloat16. There logits and
    attention weights are rounded to the type of the queries.
    """
    if q.device.type == "cpu" and torch.is_grad_enabled() and q.requires_grad:
        return BlockwiseAttention.apply(q, k, v, causal, visible)
    mask = None if visible is None else visible[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)


def attention_weights(q: Tensor, k: Tensor, causal: bool, visible: Tensor | None) -> Tensor:
    """softmax(q kᵀ) over the visible keys [B, H, T, S], for queries that are scaled by 1 / √K already.

    With `causal` the queries are those of the last T of the S positions.
    """
    logits = q @ k.mT
    if causal:
        queries = q.shape[2]
        logits[..., -queries:] += torch.full((queries, queries), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    if visible is not None:
        logits = logits.masked_fill(~visible[:, None, None], -math.inf)
    return logits.softmax(3)


class BlockwiseAttention(torch.autograd.Function):
    """`attend` with memory linear in the length: attention weights are computed one block of queries at a time, and again
    in the backward pass (Dao et al. 2022, section 3.1). Those of a single block are kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, visible: Tensor | None) -> Tensor:
        q = q * q.shape[3] ** -0.5
        outputs, weights = [], None
        for queries, keys in blocks(q, k, causal):
            weights = attention_weights(q[:, :, queries], k[:, :, keys], causal, visible)
            outputs.append(weights @ v[:, :, keys])
        ctx.causal = causal
        ctx.save_for_backward(q, k, v, visible, weights if len(outputs) == 1 else None)
        return torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, visible, kept = ctx.saved_tensors
        grad_q, grad_k, grad_v = [], torch.zeros_like(k), torch.zeros_like(v)
        for queries, keys in blocks(q, k, ctx.causal):
            weights = attention_weights(q[:, :, queries], k[:, :, keys], ctx.causal, visible) if kept is None else kept
            grad_v[:, :, keys] += weights.mT @ grad_out[:, :, queries]
            grad_weights = grad_out[:, :, queries] @ v[:, :, keys].mT
            grad_logits = operators.softmax_backward(grad_weights, weights, 3)
            grad_k[:, :, keys] += grad_logits.mT @ q[:, :, queries]
            grad_q.append(grad_logits @ k[:, :, keys])
        return torch.cat(grad_q, 2) * q.shape[3] ** -0.5, grad_k, grad_v, None, None


def blocks(q: Tensor, k: Tensor, causal: bool) -> list[tuple[slice, slice]]:
    """Slices of queries, each with the slice of keys that they attend to."""
    starts = range(0, max(q.shape[2], 1), BLOCK)  # one empty block if there is no query
    ends = [(start, min(start + BLOCK, q.shape[2])) for start in starts]
    return [(slice(start, end), slice(0, end if causal else k.shape[2])) for start, end in ends]
