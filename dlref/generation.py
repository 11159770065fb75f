"""Writing token by token, with a network that has `begin` and `step`: the likeliest token, or one drawn by its chance.

B batch, T time, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from dlref.errors import ConfigError

State = tuple[Tensor, ...]  # each [B, ...], so that the rows can be reordered


class Writer(Protocol):
    """What is asked of a network that writes."""

    def begin(self, context: Tensor) -> State:
        """The state after reading [B, T] tokens, which may be none."""

    def step(self, state: State, token: Tensor) -> tuple[Tensor, State]:
        """Logarithms of the next token's chances, up to a constant [B, V], and the state after reading one more [B]."""


def check(length: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raises ConfigError for values that say nothing."""
    if length < 1:
        raise ConfigError(f"length is {length}; it takes 1 or more tokens")
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"temperature is {temperature}; it takes 0, for the likeliest token always, or more")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k is {top_k}; it takes 1 or more tokens to draw from")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"top_p is {top_p}; it takes a share above 0, up to 1")


@torch.no_grad()
def generate(
    net: Writer,
    context: Tensor,
    length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    forbidden: Sequence[int] = (),
    stop: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """What follows `context`, [B, T] with T at least 1: up to `length` times the next tokens [B], each as it is written.

    A row that has written `stop` goes on repeating it, until all have. `forbidden` tokens are written only where no other
    one is possible. Chances are drawn on the CPU, by its `generator`, so that a seed means the same on every device.
    """
    check(length, temperature, top_k, top_p)
    assert context.shape[1], "there is no first token without one before it"
    state, token = net.begin(context[:, :-1]), context[:, -1]
    ended = torch.zeros_like(token, dtype=torch.bool)
    for _ in range(length):
        logits, state = net.step(state, token)
        chances = filtered(without(forbidden, logits), temperature, top_k, top_p)
        token = chances.cpu().multinomial(1, generator=generator).squeeze(1).to(token.device)
        if stop is not None:
            token = token.masked_fill(ended, stop)
            ended = token == stop
        yield token
        if stop is not None and ended.all():
            return


def without(forbidden: Sequence[int], logits: Tensor) -> Tensor:  # [B, V]
    """Logits that rule the forbidden tokens out, but for rows that leave nothing else."""
    allowed = logits.index_fill(1, torch.tensor(forbidden, dtype=torch.int64, device=logits.device), -math.inf)
    return torch.where(allowed.amax(1, keepdim=True) > -math.inf, allowed, logits)


def filtered(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:  # [B, V]
    """The chances by which a token is drawn: softmax(logits / temperature) without its tail.

    `top_k` keeps that many of the likeliest (Fan et al. 2018), then `top_p` the fewest of them that together have that share
    or more, the nucleus (Holtzman et al. 2020). Temperature 0 keeps one.
    """
    if temperature == 0:
        temperature, top_k = 1.0, 1
    falling, order = logits.double().sort(dim=1, descending=True, stable=True)
    shares = ((falling - falling[:, :1]) / temperature).softmax(1)  # from 0 down, or a small one would divide to ∞ - ∞
    if top_k is not None:
        shares[:, top_k:] = 0
        shares /= shares.sum(1, keepdim=True)
    if top_p is not None and top_p < 1:
        before = shares.cumsum(1).roll(1, 1)  # the share of all that are likelier
        before[:, 0] = 0
        shares = shares.masked_fill(before >= top_p, 0)
        shares /= shares.sum(1, keepdim=True)
    return torch.zeros_like(shares).scatter(1, order, shares)
