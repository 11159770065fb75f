"""Decoding token by token: greedy decoding, and sampling with a temperature, top-k and top-p.

B batch, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dlref import operators
from dlref.errors import ConfigError
from dlref.interfaces import Decoder, State


def check_sampling(length: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raises ConfigError for settings that are out of range."""
    if length < 1:
        raise ConfigError(f"length is {length}; it takes 1 or more tokens")
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"temperature is {temperature}; it takes 0, for greedy decoding, or more")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k is {top_k}; it takes 1 or more tokens to sample from")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"top_p is {top_p}; it takes a probability above 0, up to 1")


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
    eos: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Up to `length` sampled next tokens [B] after `state` and the last `token` [B], each as soon as it is sampled.

    Temperature 0 or `top_k` 1 is greedy decoding. `forbidden` tokens are sampled only where no other token is possible.
    A row that has reached `eos` is padded with it until all rows have. Tokens are sampled on the CPU, with its
    `generator`, so that a seed gives the same text on every device. Raises ConfigError for settings out of range.
    """
    check_sampling(length, temperature, top_k, top_p)
    ended = torch.zeros_like(token, dtype=torch.bool)
    for _ in range(length):
        logits, state = net.step(state, token)
        logits = mask_tokens(logits, forbidden)
        if temperature == 0 or top_k == 1:
            token = logits.max(1).indices  # the same as argmax, and faster
        else:
            probabilities = sampling_probabilities(logits, temperature, top_k, top_p)
            token = probabilities.cpu().multinomial(1, generator=generator).squeeze(1).to(token.device)
        if eos is not None:
            token = token.masked_fill(ended, eos)
            ended = token == eos
        yield token
        if eos is not None and ended.all():
            return


def mask_tokens(logits: Tensor, forbidden: Sequence[int]) -> Tensor:  # [B, V]
    """Logits with -∞ for the forbidden tokens, except in rows where no other token is possible."""
    if not forbidden:
        return logits
    masked = logits.index_fill(1, torch.tensor(forbidden, dtype=torch.int64, device=logits.device), -math.inf)
    possible = masked.amax(1, keepdim=True) > -math.inf
    return masked if possible.all() else torch.where(possible, masked, logits)


def sampling_probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:  # [B, V]
    """Probabilities by which the next token is sampled: softmax(logits / temperature), truncated and renormalized.

    `top_k` keeps the k most probable tokens (Fan et al. 2018), then `top_p` the nucleus, the fewest most probable of
    them whose probabilities add up to `top_p` or more (Holtzman et al. 2020). Temperature 0 keeps one token.
    """
    if temperature == 0:
        temperature, top_k = 1.0, 1
    ordered, order = operators.as_float64(logits).sort(dim=1, descending=True, stable=True)
    # The largest logit is subtracted first: divided by a small temperature, both could be ∞.
    probabilities = ((ordered - ordered[:, :1]) / temperature).softmax(1)
    if top_k is not None:
        probabilities[:, top_k:] = 0
        probabilities /= probabilities.sum(1, keepdim=True)
    if top_p is not None and top_p < 1:
        before = probabilities.cumsum(1).roll(1, 1)  # cumulative probability of all more probable tokens
        before[:, 0] = 0
        probabilities = probabilities.masked_fill(before >= top_p, 0)
        probabilities /= probabilities.sum(1, keepdim=True)
    return torch.zeros_like(probabilities).scatter(1, order, probabilities)
