"""Attention weights of a trained network, plotted as maps."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dlref.decoding.translate import context_length, translate_batch
from dlref.hardware import device_and_dtype
from dlref.interfaces import (
    Data,
    HasCrossAttention,
    HasSelfAttention,
    LineCodec,
    ParallelData,
    Seq2SeqDecoder,
    TokenizedText,
    declares,
)
from dlref.reports import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROTATION = math.radians(50)  # of the tokens above a map
SYMBOLS = {"\n": "↵", "\t": "⇥"}


class AttentionMaps(Report):
    """Attention weights of translations: source tokens from left to right, generated tokens from top to bottom (Bahdanau et
    al. 2015, figure 3), with a map for each layer and head.

    Maps are of the first `lines` of a split that have at most `max_len` tokens, nor more than the network's `context`.
    """

    def __init__(self, lines: int = 4, max_len: int = 60) -> None:
        self.lines, self.max_len = lines, max_len

    def __call__(self, net: nn.Module, data: Data, split: str) -> "dict[str, Figure]":
        if not declares(data, ParallelData) or not declares(net, Seq2SeqDecoder):
            return {}
        if not declares(net, HasCrossAttention) or not net.attends:
            return {}
        maps: dict[str, Figure] = {}
        max_len = min(self.max_len, context_length(net))
        for line, _ in data.texts(split):
            if len(maps) == self.lines:
                break
            if line.strip() and data.source.encode([line])[0].shape[1] <= max_len:
                weights = translation_attention(net, data.source, data.target, line, max_len)
                maps[f"attention_{len(maps) + 1}"] = plot_attention(*weights)
        return maps


class SelfAttentionMaps(Report):
    """Self-attention weights of a language model, a map for each layer and head: a row's token attends to itself and those
    before it, from left to right (Vaswani et al. 2017, figures 3 to 5).

    The text is the first `max_len` tokens of a split, or of your own `text`, and no more than the network's `context`.
    """

    def __init__(self, text: str | None = None, max_len: int = 24) -> None:
        self.text, self.max_len = text, max_len

    def __call__(self, net: nn.Module, data: Data, split: str) -> "dict[str, Figure]":
        device = device_and_dtype(net)[0]
        if not declares(net, HasSelfAttention) or not declares(data, TokenizedText):
            return {}
        vocabulary, max_len = data.vocabulary, min(self.max_len, context_length(net))
        ids = data.split(split)[:max_len].tolist()
        if self.text is not None:
            ids = vocabulary.lookup_indices(data.tokenizer(self.text))[:max_len]
        if not ids:
            return {}
        weights = net.attention_weights(torch.tensor([ids], device=device))[0].float().cpu()
        tokens = vocabulary.lookup_tokens(ids)
        return {"attention": plot_attention(weights, tokens, tokens)}


def translation_attention(
    net: Any, source: LineCodec, target: LineCodec, line: str, max_len: int | None = None
) -> tuple[Tensor, list[str], list[str]]:
    """Attention weights [T, S] or [layers, heads, T, S] of a line's greedy translation, its source and target tokens."""
    ids, visible = source.encode([line])
    [output], _ = translate_batch(net, source, target, [line], max_len=max_len)
    tokens = torch.tensor([[target.begin, *output[:-1]]])
    device = device_and_dtype(net)[0]
    weights = net.attention_weights(ids.to(device), visible.to(device), tokens.to(device))[0].float().cpu()
    return weights, source.vocabulary.lookup_tokens(ids[0].tolist()), target.vocabulary.lookup_tokens(output)


def plot_attention(weights: Tensor, across: Sequence[str], down: Sequence[str]) -> "Figure":
    """A plot of attention weights [T, S], or a grid of smaller maps for [layers, heads, T, S].

    Its size follows the number of tokens. Tokens label the outer edges, single characters upright and words rotated.
    """
    from matplotlib.figure import Figure

    weights = weights[(None,) * (4 - weights.ndim)]
    layers, heads = weights.shape[:2]
    grid = layers * heads > 1
    # Inches that a token takes, points of a letter, inches of a map's title.
    cell, font, title = (0.18, 7, 0.2) if grid else (0.24, 9, 0)
    across, down = ([readable(token) for token in tokens] for tokens in (across, down))
    lengths = [text_length(token, font) if len(token) > 1 else 0.1 for token in across]
    left = max(text_length(token, font) for token in down) + 0.15
    top = max(lengths) * math.sin(ROTATION) + 0.25 + title
    width, height = cell * len(across), cell * len(down)  # of a map
    # Distances from one map to the next, and the size of all maps together.
    step_x = max(width, text_length(f"layer {layers}, head {heads}", font) if grid else 0) + 0.2
    step_y = height + title + 0.1
    all_width, all_height = step_x * heads - 0.2, step_y * (layers - 1) + height
    ends = [step_x * (heads - 1) + cell * (i + 0.5) + length * math.cos(ROTATION) for i, length in enumerate(lengths)]
    size = left + max(all_width + 0.95, *ends) + 0.1, top + max(all_height, 0.5) + 0.15

    def at(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Fractions of the figure, from its lower left, for inches from its upper left."""
        return x / size[0], 1 - (y + height) / size[1], width / size[0], height / size[1]

    figure = Figure(figsize=size)
    for layer, head in itertools.product(range(layers), range(heads)):
        axes = figure.add_axes(at(left + step_x * head, top + step_y * layer, width, height))
        image = axes.imshow(weights[layer, head], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        label(axes, [] if layer else across, [] if head else down, font)
        if grid:
            axes.set_title(f"layer {layer + 1}, head {head + 1}", loc="left", fontsize=font, pad=4)
    scale = figure.add_axes(at(left + all_width + 0.15, top, 0.12, min(max(height, 0.5), 2.5)))
    figure.colorbar(image, cax=scale, ticks=[0, 0.5, 1]).ax.tick_params(labelsize=font)
    if height > 1.2:
        scale.set_ylabel("attention weight", fontsize=font)
    return figure


def label(axes: "Axes", across: Sequence[str], down: Sequence[str], font: float) -> None:
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(across)), across, fontsize=font, parse_math=False)
    axes.set_yticks(range(len(down)), down, fontsize=font, parse_math=False)
    axes.tick_params(length=0)
    for name, token in zip(axes.get_xticklabels(), across, strict=True):
        if len(token) > 1:
            name.set(rotation=math.degrees(ROTATION), ha="left", rotation_mode="anchor")


def readable(token: str) -> str:
    """The token with symbols for white space and other characters that are not printable."""
    return "".join(char if char.isprintable() and char != " " else SYMBOLS.get(char, "␣") for char in token)


def text_length(text: str, font: float) -> float:
    """Width of a text in inches."""
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text.replace("$", "S"), size=font).get_extents().width / 72
