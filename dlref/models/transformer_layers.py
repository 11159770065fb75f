"""Layers of Transformers: Vaswani et al. 2017, with what has been found since to choose from.

B batch, T tokens, S places that are attended to, D width, H heads of K = D / H numbers each.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.models.blockwise_attention import attend, chances
from dlref.models.layers import Dropout

Positions = Literal["sinusoidal", "learned", "rotary"]
Norm = Literal["layer", "rms"]
Activation = Literal["relu", "relu2", "gelu", "gelu_tanh", "swiglu"]
Pair = tuple[Tensor, Tensor]  # keys and values [B, H, S, K] each, or cosines and sines [T, K / 2] each
WAVE = 10_000.0  # the longest wave of positions is 2π times as many tokens long


def require_shape(width: int, heads: int, layers: int, context: int, hidden: int, positions: Positions) -> None:
    """Raise ConfigError for sizes that make no network."""
    if min(width, heads, layers, context, hidden) < 1:
        sizes = f"network.width {width}, heads {heads}, layers {layers}, hidden {hidden} and context {context}"
        raise ConfigError(f"{sizes} take 1 or more")
    if width % heads:
        raise ConfigError(f"network.width {width} does not split into {heads} heads; choose a multiple of {heads}")
    if positions == "rotary" and width // heads % 2:
        raise ConfigError(
            f"rotary positions turn pairs of numbers, and a head has {width // heads}; choose network.heads for an even number"
        )
    if positions == "sinusoidal" and width % 2:
        raise ConfigError(f"sinusoidal positions are pairs of numbers; network.width is {width}, choose an even one")


def make_norm(norm: Norm, width: int, bias: bool) -> nn.Module:
    """Layer norm (Ba et al. 2016), with a shift if `bias`, or RMS norm (Zhang & Sennrich 2019), which has none."""
    return nn.RMSNorm(width) if norm == "rms" else nn.LayerNorm(width, bias=bias)


def waves(positions: int, numbers: int) -> Pair:  # [P, N / 2] each, in float64
    """cos and sin of t / 10000^(2i / N) at position t, the pair i of N numbers (Vaswani et al. 2017, section 3.5)."""
    rates = WAVE ** (-torch.arange(0, numbers, 2, dtype=torch.float64) / numbers)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * rates
    return angles.cos(), angles.sin()


class Embedding(nn.Module):
    """Vectors of tokens and of where they stand; `angles` are those by which `rotary` ones turn queries and keys instead.

    Token vectors begin normal with deviation 1 / √D, so that they serve as the scores' weights too, and are multiplied by √D
    (Vaswani et al. 2017, section 3.4).
    """

    def __init__(
        self, vocab_size: int, width: int, heads: int, context: int, positions: Positions, dropout: float
    ) -> None:
        super().__init__()
        self.positions, self.context = positions, context
        self.tokens = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.tokens.weight, 0.0, width**-0.5)
        self.drop = Dropout(dropout)
        if positions == "learned":
            self.places = nn.Embedding(context, width)
            nn.init.normal_(self.places.weight, 0.0, width**-0.5)
        elif positions == "sinusoidal":
            cos, sin = waves(context, width)
            self.waves = nn.Buffer(torch.stack([sin, cos], 2).flatten(1), persistent=False)
        else:
            cos, sin = waves(context, width // heads)
            self.cos, self.sin = nn.Buffer(cos, persistent=False), nn.Buffer(sin, persistent=False)

    def forward(self, tokens: Tensor, start: int = 0) -> tuple[Tensor, Pair | None]:
        """Vectors of tokens [B, T] that stand at `start` and after it, and the angles of these places, if rotary."""
        x = self.tokens(tokens) * math.sqrt(self.tokens.embedding_dim)
        here = slice(start, start + tokens.shape[1])
        if here.stop > self.context:
            raise ConfigError(
                f"{here.stop:,} tokens are more than the network's context of {self.context:,}; shorten the line or the "
                "text (data.longest leaves out longer lines of training), or train with a larger context"
            )
        if self.positions == "rotary":
            return self.drop(x), (self.cos[here].to(x.dtype), self.sin[here].to(x.dtype))
        place = self.places.weight if self.positions == "learned" else self.waves
        return self.drop(x + place[here].to(x.dtype)), None


def scores(embed: Embedding, tied: bool, zero: bool) -> nn.Linear:
    """The layer that scores each token that `embed` has a vector of: by that vector, if `tied`; else its weights begin at 0, if
    `zero`, or normal with deviation 1 / √D, and its shifts at 0."""
    vocab_size, width = embed.tokens.weight.shape
    layer = nn.Linear(width, vocab_size)
    nn.init.zeros_(layer.bias)
    if tied:
        layer.weight = embed.tokens.weight
    else:
        nn.init.normal_(layer.weight, 0.0, 0.0 if zero else width**-0.5)
    return layer


def turn(x: Tensor, angles: Pair) -> Tensor:
    """Each number i and the one half of the K later as a point of the plane, turned by its angle (Su et al. 2021, section
    3.2.2, where they are neighbours). [B, H, T, K]."""
    cos, sin = (part.to(x.dtype) for part in angles)
    one, other = x.chunk(2, 3)
    return torch.cat([one * cos - other * sin, one * sin + other * cos], 3)


class MultiHeadAttention(nn.Module):
    """Vaswani et al. 2017, section 3.2.2. With `qk_norm`, queries and keys have a root mean square of 1 in each head, times
    gains (Henry et al. 2020; Dehghani et al. 2023, section 2)."""

    def __init__(self, width: int, heads: int, bias: bool, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias) for _ in range(4))
        self.query_norm, self.key_norm = (nn.RMSNorm(width // heads) if qk_norm else None for _ in range(2))

    def split(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, H, T, K]
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def placed(self, x: Tensor, norm: nn.RMSNorm | None, angles: Pair | None) -> Tensor:  # [B, T, D] -> [B, H, T, K]
        x = self.split(x)
        if norm is not None:  # in one type: torch is slow where that of the gains is another
            x = F.rms_norm(x, x.shape[3:], norm.weight.to(x.dtype)).to(x.dtype)
        return x if angles is None else turn(x, angles)

    def ask(self, x: Tensor, angles: Pair | None = None) -> Tensor:  # [B, T, D] -> [B, H, T, K]
        """Queries."""
        return self.placed(self.query(x), self.query_norm, angles)

    def remember(self, x: Tensor, angles: Pair | None = None) -> Pair:
        """Keys and values of what may be attended to [B, S, D]."""
        return self.placed(self.key(x), self.key_norm, angles), self.split(self.value(x))

    def forward(
        self, x: Tensor, known: Pair, angles: Pair | None = None, causal: bool = False, visible: Tensor | None = None
    ) -> Tensor:  # [B, T, D] -> [B, T, D]
        """What `x` finds among keys and values: all of them, those that are `visible` [B, S], or, if `causal`, T tokens
        among themselves, of which each sees those up to itself."""
        return self.out(attend(self.ask(x, angles), *known, causal, visible).transpose(1, 2).flatten(2))

    def shares(
        self, x: Tensor, known: Pair, angles: Pair | None = None, causal: bool = False, visible: Tensor | None = None
    ) -> Tensor:  # [B, T, D] -> [B, H, T, S]
        """Each head's attention weights, where `forward` is called with the same."""
        query = self.ask(x, angles)
        return chances(query * query.shape[3] ** -0.5, known[0], causal, visible)


class FeedForward(nn.Module):
    """Two affine layers with an activation between (Vaswani et al. 2017, section 3.3): `relu`, `relu2`, its square (So et
    al. 2021), `gelu` and `gelu_tanh`, its approximation by tanh (Hendrycks & Gimpel 2016, section 2), which GPT-2 has, or
    `swiglu`, whose units are multiplied by others (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int, activation: Activation, bias: bool) -> None:
        super().__init__()
        self.activation = activation
        self.up = nn.Linear(width, hidden * (2 if activation == "swiglu" else 1), bias)
        self.down = nn.Linear(hidden, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        if self.activation == "swiglu":
            gate, x = x.chunk(2, 2)
            return self.down(F.silu(gate) * x)
        if self.activation in ("gelu", "gelu_tanh"):
            return self.down(F.gelu(x, approximate="tanh" if self.activation == "gelu_tanh" else "none"))
        x = F.relu(x)
        return self.down(x.square() if self.activation == "relu2" else x)


class Block(nn.Module):
    """Self-attention, with `cross` then attention to another sequence, and a feed-forward layer, each added to what it was
    given: of its norm if `prenorm` (Xiong et al. 2020), else the sum is normalised (Vaswani et al. 2017, section 3.1)."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        norm: Norm = "layer",
        prenorm: bool = True,
        activation: Activation = "relu",
        qk_norm: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.prenorm, self.cross = prenorm, cross
        self.self_attention = MultiHeadAttention(width, heads, bias, qk_norm)
        if cross:
            self.cross_attention = MultiHeadAttention(width, heads, bias, qk_norm)
        self.feed_forward = FeedForward(width, hidden, activation, bias)
        self.norms = nn.ModuleList(make_norm(norm, width, bias) for _ in range(2 + cross))
        self.drop = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        angles: Pair | None,
        past: Pair | None = None,
        causal: bool = False,
        visible: Tensor | None = None,
        memory: Pair | None = None,
        memory_visible: Tensor | None = None,
    ) -> tuple[Tensor, Pair]:  # [B, T, D] -> [B, T, D], and its own keys and values so far
        x, known = self.attend(x, angles, past, causal, visible)
        if self.cross:
            assert memory is not None
            x = self.after(1, x, self.cross_attention(self.before(1, x), memory, visible=memory_visible))
        return self.after(-1, x, self.feed_forward(self.before(-1, x))), known

    def attend(
        self,
        x: Tensor,
        angles: Pair | None,
        past: Pair | None = None,
        causal: bool = False,
        visible: Tensor | None = None,
    ) -> tuple[Tensor, Pair]:
        """The first part of it, the self-attention."""
        given = self.before(0, x)
        known = self.self_attention.remember(given, angles)
        if past is not None and past[0].shape[2]:
            known = torch.cat([past[0], known[0]], 2), torch.cat([past[1], known[1]], 2)
        return self.after(0, x, self.self_attention(given, known, angles, causal, visible)), known

    def shares(self, x: Tensor, angles: Pair | None) -> Tensor:
        """To which share each head of a causal self-attention attends to each place [B, H, T, T]."""
        given = self.before(0, x)
        return self.self_attention.shares(given, self.self_attention.remember(given, angles), angles, causal=True)

    def before(self, part: int, x: Tensor) -> Tensor:
        return self.norms[part](x) if self.prenorm else x

    def after(self, part: int, x: Tensor, found: Tensor) -> Tensor:
        x = x + self.drop(found)
        return x if self.prenorm else self.norms[part](x)


def initialize(blocks: Sequence[Any], zero: bool) -> None:
    """Affine layers begin normal with deviation √(1 / inputs), shifts at 0; what is added to the residual stream by the
    last layer of each part, at 0 if `zero` (Zhang et al. 2019), else divided by the root of how many parts are added
    (Radford et al. 2019, section 2.3)."""
    parts = sum(len(block.norms) for block in blocks)
    for block in blocks:
        for name, layer in block.named_modules():
            if isinstance(layer, nn.Linear):
                last = name.endswith(("out", "down"))
                deviation = layer.in_features**-0.5 * (parts**-0.5 if last else 1)
                nn.init.normal_(layer.weight, 0.0, 0.0 if last and zero else deviation)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
