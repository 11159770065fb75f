"""Scaled dot-product attention that keeps no scores of long sequences: Vaswani et al. 2017, equation 1.

B batch, H heads, T queries, S places that are attended to, K numbers of a head.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dlref import operators

BLOCK = 256  # queries whose scores are in memory at a time


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, visible: Tensor | None = None) -> Tensor:
    """What queries [B, H, T, K] find at keys and values [B, H, S, K]: of all places, of those that are `visible` [B, S], or,
    if `causal`, of as many as there are queries, each those up to its own.

    torch's own is used but for gradients on a CPU, where it is slow in bfloat16. There scores and shares are rounded to the
    type of the queries.
    """
    if q.device.type == "cpu" and torch.is_grad_enabled() and q.requires_grad:
        return Attention.apply(q, k, v, causal, visible)
    mask = None if visible is None else visible[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)


def chances(q: Tensor, k: Tensor, causal: bool, visible: Tensor | None) -> Tensor:
    """The shares of the last queries that there are keys for, whose scale is in them, [B, H, S]."""
    scores = q @ k.mT
    if causal:
        rows = q.shape[2]
        scores[..., -rows:] += torch.full((rows, rows), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None, None], -math.inf)
    return scores.softmax(3)


class Attention(torch.autograd.Function):
    """In blocks of queries. Their shares are computed again for the gradient (Dao et al. 2022, section 3.1), or are kept
    where there is only one block, so that memory grows in a line with the length."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, visible: Tensor | None) -> Tensor:
        q = q * q.shape[3] ** -0.5
        found, share = [], None
        for rows, places in blocks(q, k, causal):
            share = chances(q[:, :, rows], k[:, :, places], causal, visible)
            found.append(share @ v[:, :, places])
        ctx.causal = causal
        ctx.save_for_backward(q, k, v, visible, share if len(found) == 1 else None)
        return torch.cat(found, 2) if len(found) > 1 else found[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, visible, kept = ctx.saved_tensors
        of_q, of_k, of_v = [], torch.zeros_like(k), torch.zeros_like(v)
        for rows, places in blocks(q, k, ctx.causal):
            share = chances(q[:, :, rows], k[:, :, places], ctx.causal, visible) if kept is None else kept
            of_v[:, :, places] += share.mT @ slope[:, :, rows]
            of_share = slope[:, :, rows] @ v[:, :, places].mT
            of_score = operators.softmax_backward(of_share, share, 3)
            of_k[:, :, places] += of_score.mT @ q[:, :, rows]
            of_q.append(of_score @ k[:, :, places])
        return torch.cat(of_q, 2) * q.shape[3] ** -0.5, of_k, of_v, None, None


def blocks(q: Tensor, k: Tensor, causal: bool) -> list[tuple[slice, slice]]:
    """Rows of queries, and the places that they attend to."""
    starts = range(0, max(q.shape[2], 1), BLOCK)  # one block of none, where there is no query
    ends = [(start, min(start + BLOCK, q.shape[2])) for start in starts]
    return [(slice(start, end), slice(0, end if causal else k.shape[2])) for start, end in ends]
