"""What of the source a network attends to as it writes each token."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dlref.data import place_of
from dlref.data.text import BEGIN
from dlref.reports import Report
from dlref.reports.translation import translates, written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 0.24  # inches that a token takes
FONT = 9  # points
TURNED = math.radians(50)


class AttentionMaps(Report):
    """Shares of attention, source tokens from left to right and the tokens that are written for them downwards (Bahdanau et
    al. 2015, figure 3), for the first `lines` of a split that are no longer than `most` tokens. Heads are averaged.
    """

    def __init__(self, lines: int = 4, most: int = 60) -> None:
        self.lines, self.most = lines, most

    def __call__(self, net: nn.Module, data: Any, split: str) -> "dict[str, Figure]":
        if not translates(net, data) or not getattr(net, "attends", False):
            return {}
        found: dict[str, Figure] = {}
        for line, _ in data.texts(split):
            if len(found) == self.lines:
                break
            if line.strip() and data.source.encode([line])[0].shape[1] <= self.most:
                found[f"attention_{len(found) + 1}"] = drawn(*attended(net, data.source, data.target, line, self.most))
        return found


def attended(
    net: Any, source: Any, target: Any, line: str, limit: int | None = None
) -> tuple[Tensor, list[str], list[str]]:
    """Shares [T, S] as the network translates a line by the likeliest tokens, the source's tokens, and those it writes."""
    ids, visible = source.encode([line])
    [tokens] = written(net, source, target, [line], limit=limit)
    read = torch.tensor([[target.vocabulary[BEGIN], *tokens[:-1]]])
    place = place_of(net)[0]
    shares = net.attention(ids.to(place), visible.to(place), read.to(place))[0].float().cpu()
    shares = shares.mean(0) if shares.ndim == 3 else shares  # [heads, T, S]
    return shares, source.vocabulary.lookup_tokens(ids[0].tolist()), target.vocabulary.lookup_tokens(tokens)


def drawn(shares: Tensor, across: Sequence[str], down: Sequence[str]) -> "Figure":
    """Shares [T, S] as a picture with a name for each column and row, letters upright and words turned; it grows with them."""
    from matplotlib.figure import Figure

    across, down = ([token.replace(" ", "␣") for token in tokens] for tokens in (across, down))
    reach = [length(token) if len(token) > 1 else 0.1 for token in across]
    left, top = max(map(length, down)) + 0.15, max(reach) * math.sin(TURNED) + 0.25  # inches from here on
    width, height = CELL * len(across), CELL * len(down)
    ends = [CELL * (place + 0.5) + reached * math.cos(TURNED) for place, reached in enumerate(reach)]
    whole = left + max(width + 0.95, *ends) + 0.1, top + max(height, 0.5) + 0.15

    def at(x: float, y: float, wide: float, high: float) -> tuple[float, float, float, float]:
        """Shares of the figure, from its lower left, of inches from its upper left."""
        return x / whole[0], 1 - (y + high) / whole[1], wide / whole[0], high / whole[1]

    figure = Figure(figsize=whole)
    axes = figure.add_axes(at(left, top, width, height))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(across)), across, fontsize=FONT, parse_math=False)
    axes.set_yticks(range(len(down)), down, fontsize=FONT, parse_math=False)
    axes.tick_params(length=0)
    for label, token in zip(axes.get_xticklabels(), across, strict=True):
        if len(token) > 1:
            label.set(rotation=math.degrees(TURNED), ha="left", rotation_mode="anchor")
    scale = figure.add_axes(at(left + width + 0.15, top, 0.12, min(max(height, 0.5), 2.5)))
    figure.colorbar(image, cax=scale, ticks=[0, 0.5, 1]).ax.tick_params(labelsize=FONT)
    if height > 1.2:
        scale.set_ylabel("share of attention", fontsize=FONT)
    return figure


def length(text: str) -> float:
    """Inches that a name takes."""
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text.replace("$", "S"), size=FONT).get_extents().width / 72
