"""Layers of Transformers: Vaswani et al. 2017, with later variants as options.

B batch, T tokens, S keys, D width, H heads of K = D / H dimensions each.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.models.blockwise_attention import attend, attention_weights
from dlref.models.layers import Dropout

Positions = Literal["sinusoidal", "learned", "rotary"]
Norm = Literal["layer", "rms"]
Activation = Literal["relu", "relu2", "gelu", "gelu_tanh", "swiglu"]
KeysValues = tuple[Tensor, Tensor]  # [B, H, S, K] each
Rotation = tuple[Tensor, Tensor]  # cosines and sines [T, K / 2] of the angles of rotary positions
BASE = 10_000.0  # wavelengths of positions range from 2π to 2π times this many tokens


def require_shape(width: int, heads: int, layers: int, context: int, hidden: int, positions: Positions) -> None:
    """Raise ConfigError for sizes that make no network."""
    if min(width, heads, layers, context, hidden) < 1:
        sizes = f"network.width {width}, heads {heads}, layers {layers}, hidden {hidden} and context {context}"
        raise ConfigError(f"{sizes} take 1 or more")
    if width % heads:
        raise ConfigError(f"network.width {width} does not split into {heads} heads; choose a multiple of {heads}")
    if positions == "rotary" and width // heads % 2:
        raise ConfigError(
            f"rotary positions rotate pairs of dimensions, and a head has {width // heads}; choose network.heads for an even "
            "number"
        )
    if positions == "sinusoidal" and width % 2:
        raise ConfigError(f"sinusoidal positions are pairs of dimensions; network.width is {width}, choose an even one")


def make_norm(norm: Norm, width: int, bias: bool) -> nn.Module:
    """Layer norm (Ba et al. 2016), optionally without bias, or RMS norm (Zhang & Sennrich 2019), which has none."""
    return nn.RMSNorm(width) if norm == "rms" else nn.LayerNorm(width, bias=bias)


def sinusoids(positions: int, dimensions: int) -> Rotation:  # [P, N / 2] each, in float64
    """cos and sin of t / 10000^(2i / N) for position t and pair i of N dimensions (Vaswani et al. 2017, section 3.5)."""
    frequencies = BASE ** (-torch.arange(0, dimensions, 2, dtype=torch.float64) / dimensions)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * frequencies
    return angles.cos(), angles.sin()


class TokenEmbedding(nn.Module):
    """Token embeddings plus position embeddings; `rotary` positions are applied to queries and keys instead.

    Token embeddings are initialized normal with standard deviation 1 / √D, so that the output layer can reuse them, and
    multiplied by √D (Vaswani et al. 2017, section 3.4).
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
            self.learned = nn.Embedding(context, width)
            nn.init.normal_(self.learned.weight, 0.0, width**-0.5)
        elif positions == "sinusoidal":
            cos, sin = sinusoids(context, width)
            self.sinusoidal = nn.Buffer(torch.stack([sin, cos], 2).flatten(1), persistent=False)
        else:
            cos, sin = sinusoids(context, width // heads)
            self.cos, self.sin = nn.Buffer(cos, persistent=False), nn.Buffer(sin, persistent=False)

    def forward(self, tokens: Tensor, start: int = 0) -> tuple[Tensor, Rotation | None]:
        """Embeddings [B, T, D] of tokens [B, T] at positions from `start` on, and their rotation if positions are rotary."""
        x = self.tokens(tokens) * math.sqrt(self.tokens.embedding_dim)
        positions = slice(start, start + tokens.shape[1])
        if positions.stop > self.context:
            raise ConfigError(
                f"{positions.stop:,} tokens are more than the network's context of {self.context:,}; shorten the line or the "
                "text (data.max_len leaves out longer lines of training), or train with a larger context"
            )
        if self.positions == "rotary":
            return self.drop(x), (self.cos[positions].to(x.dtype), self.sin[positions].to(x.dtype))
        table = self.learned.weight if self.positions == "learned" else self.sinusoidal
        return self.drop(x + table[positions].to(x.dtype)), None


def output_layer(embed: TokenEmbedding, tied: bool, zero_init: bool) -> nn.Linear:
    """The layer that computes the logits of all tokens of `embed`, with its weights if `tied` (Press & Wolf 2017).

    Otherwise weights are initialized at 0, if `zero_init`, or normal with standard deviation 1 / √D. Biases start at 0.
    """
    vocab_size, width = embed.tokens.weight.shape
    layer = nn.Linear(width, vocab_size)
    nn.init.zeros_(layer.bias)
    if tied:
        layer.weight = embed.tokens.weight
    else:
        nn.init.normal_(layer.weight, 0.0, 0.0 if zero_init else width**-0.5)
    return layer


def apply_rotary(x: Tensor, rotation: Rotation) -> Tensor:  # [B, H, T, K] -> [B, H, T, K]
    """Rotary positions: dimensions i and i + K / 2 are rotated by the position's angle in their plane (Su et al. 2021, section
    3.2.2, where the pairs are adjacent)."""
    cos, sin = (part.to(x.dtype) for part in rotation)
    first, second = x.chunk(2, 3)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], 3)


class MultiHeadAttention(nn.Module):
    """Vaswani et al. 2017, section 3.2.2. With `qk_norm`, queries and keys of each head go through RMS norm (Henry et al.
    2020; Dehghani et al. 2023, section 2)."""

    def __init__(self, width: int, heads: int, bias: bool, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias) for _ in range(4))
        self.query_norm, self.key_norm = (nn.RMSNorm(width // heads) if qk_norm else None for _ in range(2))

    def split_heads(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, H, T, K]
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def normalize_and_rotate(self, x: Tensor, norm: nn.RMSNorm | None, rotation: Rotation | None) -> Tensor:
        """[B, T, D] -> [B, H, T, K]."""
        x = self.split_heads(x)
        if norm is not None:  # in one dtype: torch is slow where the scale has another
            x = F.rms_norm(x, x.shape[3:], norm.weight.to(x.dtype)).to(x.dtype)
        return x if rotation is None else apply_rotary(x, rotation)

    def queries(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:  # [B, T, D] -> [B, H, T, K]
        return self.normalize_and_rotate(self.query(x), self.query_norm, rotation)

    def keys_values(self, x: Tensor, rotation: Rotation | None = None) -> KeysValues:  # [B, S, D] -> [B, H, S, K] each
        return self.normalize_and_rotate(self.key(x), self.key_norm, rotation), self.split_heads(self.value(x))

    def forward(
        self,
        x: Tensor,
        keys_values: KeysValues,
        rotation: Rotation | None = None,
        causal: bool = False,
        visible: Tensor | None = None,
    ) -> Tensor:  # [B, T, D] -> [B, T, D]
        """Attention from `x` to all keys, to the `visible` ones [B, S], or, if `causal`, of T tokens to those up to each."""
        heads = attend(self.queries(x, rotation), *keys_values, causal, visible)
        return self.out(heads.transpose(1, 2).flatten(2))

    def attention_weights(
        self,
        x: Tensor,
        keys_values: KeysValues,
        rotation: Rotation | None = None,
        causal: bool = False,
        visible: Tensor | None = None,
    ) -> Tensor:  # [B, T, D] -> [B, H, T, S]
        """The attention weights of `forward` with the same arguments."""
        q = self.queries(x, rotation)
        return attention_weights(q * q.shape[3] ** -0.5, keys_values[0], causal, visible)


class FeedForward(nn.Module):
    """Two affine layers with an activation in between (Vaswani et al. 2017, section 3.3): `relu`, `relu2`, its square (So et
    al. 2021), `gelu` and `gelu_tanh`, its approximation by tanh (Hendrycks & Gimpel 2016, section 2), as in GPT-2, or
    `swiglu`, a gated unit (Shazeer 2020)."""

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
    """Self-attention, with `cross` then cross-attention, and a feed-forward layer, each with a residual connection.

    With `prenorm` the input of each part is normalized (Xiong et al. 2020), otherwise each sum (Vaswani et al. 2017, section
    3.1).
    """

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
        rotation: Rotation | None,
        kv_cache: KeysValues | None = None,
        causal: bool = False,
        visible: Tensor | None = None,
        source: KeysValues | None = None,
        source_visible: Tensor | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Outputs [B, T, D] for inputs [B, T, D], and the cache with their keys and values appended.

        `visible` masks keys of the self-attention; `source` holds those of the cross-attention, with a mask of their own.
        """
        x, kv_cache = self.attend(x, rotation, kv_cache, causal, visible)
        if self.cross:
            assert source is not None
            x = self.add(1, x, self.cross_attention(self.part_input(1, x), source, visible=source_visible))
        return self.add(-1, x, self.feed_forward(self.part_input(-1, x))), kv_cache

    def attend(
        self,
        x: Tensor,
        rotation: Rotation | None,
        kv_cache: KeysValues | None = None,
        causal: bool = False,
        visible: Tensor | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """The self-attention with its residual connection, and the cache with the keys and values appended."""
        normed = self.part_input(0, x)
        keys_values = self.self_attention.keys_values(normed, rotation)
        if kv_cache is not None and kv_cache[0].shape[2]:
            keys_values = torch.cat([kv_cache[0], keys_values[0]], 2), torch.cat([kv_cache[1], keys_values[1]], 2)
        return self.add(0, x, self.self_attention(normed, keys_values, rotation, causal, visible)), keys_values

    def attention_weights(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        """Attention weights of each head of a causal self-attention [B, H, T, T]."""
        normed = self.part_input(0, x)
        keys_values = self.self_attention.keys_values(normed, rotation)
        return self.self_attention.attention_weights(normed, keys_values, rotation, causal=True)

    def part_input(self, part: int, x: Tensor) -> Tensor:
        return self.norms[part](x) if self.prenorm else x

    def add(self, part: int, x: Tensor, output: Tensor) -> Tensor:
        """The residual connection, followed by the norm unless `prenorm`."""
        x = x + self.drop(output)
        return x if self.prenorm else self.norms[part](x)


def initialize(blocks: Sequence[Block], zero_init: bool) -> None:
    """Initialize affine layers normal with standard deviation √(1 / inputs), biases at 0.

    The last layer of each part, whose output is added to the residual stream, is initialized at 0 if `zero_init` (Zhang et
    al. 2019), otherwise its standard deviation is divided by √(number of parts) (Radford et al. 2019, section 2.3).
    """
    parts = sum(len(block.norms) for block in blocks)
    for block in blocks:
        for name, layer in block.named_modules():
            if isinstance(layer, nn.Linear):
                last = name.endswith(("out", "down"))
                std = layer.in_features**-0.5 * (parts**-0.5 if last else 1)
                nn.init.normal_(layer.weight, 0.0, 0.0 if last and zero_init else std)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
