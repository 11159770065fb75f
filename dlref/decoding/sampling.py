"""Writing token by token, with a network that has `step`: the likeliest token, one drawn by its chance, or beam search.

B batch, N rows at work, W width, T and L time, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dlref import operators
from dlref.errors import ConfigError
from dlref.interfaces import Decoder, State

PENALTY = 0.6  # of lengths in beam search: Vaswani et al. 2017, section 6.1


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
    net: Decoder,
    state: State,
    token: Tensor,
    length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    forbidden: Sequence[int] = (),
    stop: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """What follows after `state` and the `token` [B]: up to `length` times the next tokens [B], each as it is written.

    A row that has written `stop` goes on repeating it, until all have. `forbidden` tokens are written only where no other
    one is possible. Chances are drawn on the CPU, by its `generator`, so that a seed means the same on every device.
    """
    check(length, temperature, top_k, top_p)
    ended = torch.zeros_like(token, dtype=torch.bool)
    for _ in range(length):
        logits, state = net.step(state, token)
        logits = without(forbidden, logits)
        if temperature == 0 or top_k == 1:
            token = logits.max(1).indices  # the same as argmax, and faster
        else:
            chances = filtered(logits, temperature, top_k, top_p)
            token = chances.cpu().multinomial(1, generator=generator).squeeze(1).to(token.device)
        if stop is not None:
            token = token.masked_fill(ended, stop)
            ended = token == stop
        yield token
        if stop is not None and ended.all():
            return


def without(forbidden: Sequence[int], logits: Tensor) -> Tensor:  # [B, V]
    """Logits that rule the forbidden tokens out, but for rows that leave nothing else."""
    if not forbidden:
        return logits
    allowed = logits.index_fill(1, torch.tensor(forbidden, dtype=torch.int64, device=logits.device), -math.inf)
    left = allowed.amax(1, keepdim=True) > -math.inf
    return allowed if left.all() else torch.where(left, allowed, logits)


def filtered(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:  # [B, V]
    """The chances by which a token is drawn: softmax(logits / temperature) without its tail.

    `top_k` keeps that many of the likeliest (Fan et al. 2018), then `top_p` the fewest of them that together have that share
    or more, the nucleus (Holtzman et al. 2020). Temperature 0 keeps one.
    """
    if temperature == 0:
        temperature, top_k = 1.0, 1
    falling, order = operators.as_float64(logits).sort(dim=1, descending=True, stable=True)
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


def check_beam(width: int, penalty: float) -> None:
    """Raises ConfigError for values that say nothing."""
    if width < 1:
        raise ConfigError(f"the beam's width is {width}; it takes 1 or more sequences at a time")
    if not 0 <= penalty < math.inf:
        raise ConfigError(f"the length penalty is {penalty}; it takes 0, for none, or more")


def continued(total: Tensor, logits: Tensor, forbidden: Sequence[int] = ()) -> tuple[Tensor, Tensor, Tensor]:
    """The 2W likeliest sequences, the likeliest first, that are one token longer than W of log p `total` [N, W], whose next
    token has the scores `logits` [N, W, V]: their log p, that token, and which of the W each goes on from, all [N, 2W].

    No more than W of them can stop, one for each of the W, so that as many are left to go on.
    """
    width = total.shape[1]
    chances, tokens = without(forbidden, logits.flatten(0, 1).log_softmax(1)).topk(min(width + 1, logits.shape[2]))
    chances = operators.as_float64(chances).view(*total.shape, -1)
    chances = chances.where(total[:, :, None] > -math.inf, 0)  # which may be ∞ - ∞ behind what cannot be
    longer, place = (total[:, :, None] + chances).flatten(1).topk(min(2, logits.shape[2]) * width)
    return longer, tokens.view(len(total), -1).gather(1, place), place // chances.shape[2]


@torch.no_grad()
def beam_search(
    net: Decoder,
    state: State,
    token: Tensor,
    length: int | Tensor,
    width: int,
    stop: int,
    penalty: float = PENALTY,
    forbidden: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """The best of up to `length` tokens after `token` [B]: [B, L], behind their `stop` filled with it, and scores [B].

    A sequence's score is log p / ((5 + its tokens, `stop` among them) / 6) ** penalty (Wu et al. 2016, equation 14). The
    `width` likeliest unfinished ones go on. One that stops is put aside if it is among the `width` likeliest of all that
    they can go on with, and leaves its place to the next. A row ends as soon as `width` have stopped, or none can become
    better than the best that has; what has not stopped after `length` tokens (which may be each row's own [B]) counts only
    where nothing has. `forbidden` tokens keep their chance, but are written only where no other one is possible.
    """
    check_beam(width, penalty)

    def scale(tokens: int | Tensor) -> Any:
        return ((5 + tokens) / 6) ** penalty

    limits = torch.as_tensor(length, device=token.device).expand(len(token))
    check(int(limits.min()), 1.0, None, None)
    found = token[:, None].new_full((len(token), int(limits.max())), stop)
    best = operators.as_float64(torch.full((len(token),), -math.inf, device=token.device))
    rows, stopped = torch.arange(len(token), device=token.device), torch.zeros_like(token)  # those at work, each [N]
    total = best[:, None].repeat(1, width)  # log p [N, W]: one sequence as yet
    total[:, 0] = 0
    written = found[:, None, :0].expand(-1, width, -1)  # [N, W, T]
    state, token = tuple(part.repeat_interleave(width, 0) for part in state), token.repeat_interleave(width)
    for count in range(1, found.shape[1] + 1):
        logits, state = net.step(state, token)
        total, tokens, parent = continued(total, logits.view(*total.shape, -1), forbidden)
        stops = (tokens == stop)[:, :width] & (total[:, :width] > -math.inf)
        stopped = stopped + stops.sum(1)
        likeliest, which = total[:, :width].where(stops, -math.inf).max(1)
        better = (likeliest / scale(count) > best[rows]).nonzero()[:, 0]
        best[rows[better]] = likeliest[better] / scale(count)
        found[rows[better], : count - 1] = written[better, parent[better, which[better]]]

        total, order = total.masked_fill(tokens == stop, -math.inf).topk(width)
        tokens, parent = tokens.gather(1, order), parent.gather(1, order)
        written = torch.cat([written.gather(1, parent[:, :, None].expand_as(written)), tokens[:, :, None]], 2)
        # A logarithm of a chance only falls, and weighs least in the longest sequence.
        ended = (stopped >= width) | (total[:, 0] / scale(limits[rows]) <= best[rows]) | (count >= limits[rows])
        cut = (ended & (best[rows] == -math.inf)).nonzero()[:, 0]
        best[rows[cut]] = total[cut, 0] / scale(count)
        found[rows[cut], :count] = written[cut, 0]

        at_work = (~ended).nonzero()[:, 0]
        if not len(at_work):
            break
        places = (torch.arange(len(rows), device=rows.device)[:, None] * width + parent)[at_work].flatten()
        state, token = tuple(part.index_select(0, places) for part in state), tokens[at_work].flatten()
        rows, stopped, total, written = (each[at_work] for each in (rows, stopped, total, written))
    return found[:, :count], best
