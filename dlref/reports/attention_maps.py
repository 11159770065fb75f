"""Where a network looks as it reads or writes each token."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dlref.data.text.tokenizer import BEGIN
from dlref.hardware import device_and_dtype
from dlref.interfaces import HasCrossAttention, HasSelfAttention, TokenizedText, declares
from dlref.reports import Report
from dlref.reports.translation_quality import context_of, translates, written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TURNED = math.radians(50)
MARKS = {"\n": "↵", "\t": "⇥"}


class AttentionMaps(Report):
    """Shares of attention, source tokens from left to right and the tokens that are written for them downwards
    (Bahdanau et al. 2015, figure 3), for the first `lines` of a split that have at most `most` tokens, nor more than
    the network's `context`. Of a network with layers and heads it draws a map for each.
    """

    def __init__(self, lines: int = 4, most: int = 60) -> None:
        self.lines, self.most = lines, most

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, Figure]":
        if not translates(net, data) or not (declares(net, HasCrossAttention) and net.attends):
            return {}
        found: dict[str, Figure] = {}
        most = min(self.most, context_of(net))
        for line, _ in data.texts(split):
            if len(found) == self.lines:
                break
            if line.strip() and data.source.encode([line])[0].shape[1] <= most:
                found[f"attention_{len(found) + 1}"] = drawn(*attended(net, data.source, data.target, line, most))
        return found


class SelfAttentionMaps(Report):
    """Shares of attention of a language model, a map for each head of each layer: a row's token looks at itself and at
    those before it, from left to right (Vaswani et al. 2017, figures 3 to 5). It reads the first `most` tokens of a
    split, or of a `text` of yours, and no more than the network's `context`.
    """

    def __init__(self, text: str | None = None, most: int = 24) -> None:
        self.text, self.most = text, most

    def __call__(self, net: Any, data: Any, split: str) -> "dict[str, Figure]":
        device = device_and_dtype(net)[0]
        if not declares(net, HasSelfAttention) or not declares(data, TokenizedText):
            return {}
        words, most = data.vocabulary, min(self.most, context_of(net))
        ids = data.split(split)[:most].tolist()
        if self.text is not None:
            ids = words.lookup_indices(data.tokenizer(self.text))[:most]
        if not ids:
            return {}
        shares = net.attention_weights(torch.tensor([ids], device=device))[0].float().cpu()
        return {"attention": drawn(shares, words.lookup_tokens(ids), words.lookup_tokens(ids))}


def attended(
    net: Any, source: Any, target: Any, line: str, limit: int | None = None
) -> tuple[Tensor, list[str], list[str]]:
    """Shares [T, S], or [layers, heads, T, S], as the network translates a line by the likeliest tokens, the source's
    tokens, and those it writes."""
    ids, visible = source.encode([line])
    [tokens] = written(net, source, target, [line], limit=limit)
    read = torch.tensor([[target.vocabulary[BEGIN], *tokens[:-1]]])
    place = device_and_dtype(net)[0]
    shares = net.attention_weights(ids.to(place), visible.to(place), read.to(place))[0].float().cpu()
    return shares, source.vocabulary.lookup_tokens(ids[0].tolist()), target.vocabulary.lookup_tokens(tokens)


def drawn(shares: Tensor, across: Sequence[str], down: Sequence[str]) -> "Figure":
    """A map [T, S], or a grid of smaller ones [layers, heads, T, S], as a picture that grows with its tokens, whose
    names stand at the outer edge, letters upright and words turned."""
    from matplotlib.figure import Figure

    shares = shares[(None,) * (4 - shares.ndim)]
    layers, heads = shares.shape[:2]
    grid = layers * heads > 1
    cell, font, title = (0.18, 7, 0.2) if grid else (0.24, 9, 0)  # inches that a token takes, points, inches
    across, down = ([readable(token) for token in tokens] for tokens in (across, down))
    reach = [length(token, font) if len(token) > 1 else 0.1 for token in across]
    left, top = max(length(token, font) for token in down) + 0.15, max(reach) * math.sin(TURNED) + 0.25 + title
    width, height = cell * len(across), cell * len(down)  # of a map, and from one to the next:
    right, below = max(width, length(f"layer {layers}, head {heads}", font) if grid else 0) + 0.2, height + title + 0.1
    wide, high = right * heads - 0.2, below * (layers - 1) + height
    ends = [right * (heads - 1) + cell * (place + 0.5) + long * math.cos(TURNED) for place, long in enumerate(reach)]
    whole = left + max(wide + 0.95, *ends) + 0.1, top + max(high, 0.5) + 0.15

    def at(x: float, y: float, wide: float, high: float) -> tuple[float, float, float, float]:
        """Shares of the figure, from its lower left, of inches from its upper left."""
        return x / whole[0], 1 - (y + high) / whole[1], wide / whole[0], high / whole[1]

    figure = Figure(figsize=whole)
    for layer, head in itertools.product(range(layers), range(heads)):
        axes = figure.add_axes(at(left + right * head, top + below * layer, width, height))
        image = axes.imshow(shares[layer, head], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        label(axes, [] if layer else across, [] if head else down, font)
        if grid:
            axes.set_title(f"layer {layer + 1}, head {head + 1}", loc="left", fontsize=font, pad=4)
    scale = figure.add_axes(at(left + wide + 0.15, top, 0.12, min(max(height, 0.5), 2.5)))
    figure.colorbar(image, cax=scale, ticks=[0, 0.5, 1]).ax.tick_params(labelsize=font)
    if height > 1.2:
        scale.set_ylabel("share of attention", fontsize=font)
    return figure


def label(axes: Any, across: Sequence[str], down: Sequence[str], font: float) -> None:
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(across)), across, fontsize=font, parse_math=False)
    axes.set_yticks(range(len(down)), down, fontsize=font, parse_math=False)
    axes.tick_params(length=0)
    for name, token in zip(axes.get_xticklabels(), across, strict=True):
        if len(token) > 1:
            name.set(rotation=math.degrees(TURNED), ha="left", rotation_mode="anchor")


def readable(token: str) -> str:
    """The token with marks for white space and all else that leaves no ink."""
    return "".join(each if each.isprintable() and each != " " else MARKS.get(each, "␣") for each in token)


def length(text: str, font: float) -> float:
    """Inches that a name takes."""
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text.replace("$", "S"), size=font).get_extents().width / 72
