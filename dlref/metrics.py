"""Totals and counts, which add up over batches, ranks and steps; the division happens once, when a metric is read."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from dlref import operators
from dlref.errors import ConfigError, brief


class Mean(NamedTuple):
    """A mean as a total and a count (of samples, tokens, episodes).

    Totals and counts of parts add up, so the mean is exact over ragged batches, accumulated micro-batches and ranks, where a
    mean of means is not. Counts are whole numbers.
    """

    total: Tensor | float
    count: Tensor | int  # type: ignore[assignment] # a tuple has a method of that name, which nothing here calls

    @property
    def value(self) -> float:
        """total / count, or NaN for a count of 0."""
        count = float(self.count)
        total = self.total.detach() if isinstance(self.total, Tensor) else self.total
        return float(total) / count if count else float("nan")


Totals = dict[str, Mean]


def add(a: Totals, b: Totals) -> Totals:
    """The sum of two parts; a name that one part lacks has a count of 0 there."""
    if not a:
        return b
    return {
        name: Mean(a[name].total + b[name].total, a[name].count + b[name].count)
        if name in a and name in b
        else a.get(name) or b[name]
        for name in a | b
    }


def perplexity(nll: float) -> float:
    """exp(nll), up to the largest number that a float can hold."""
    return math.exp(min(nll, 709.0))


def text_metrics(nll: Mean, tokens: int, words: int = 0, characters: int = 0) -> dict[str, float]:
    """Perplexity per word and bits per character of a text, from the total nll of its `tokens`.

    Unlike the perplexity per token they can be compared between vocabularies (Mielke 2019, *Can you compare perplexity across
    different segmentations?*). Empty where the nll is of another number of tokens; without words, or without characters,
    that metric is left out.
    """
    if int(nll.count) != tokens:
        return {}
    metrics = {"word_perplexity": perplexity(float(nll.total) / words)} if words else {}
    return metrics | ({"bits_per_character": float(nll.total) / math.log(2) / characters} if characters else {})


def read(totals: Totals) -> Totals:
    """The totals as Python numbers, in whose sums rounding is small; waits for the device that computes them."""
    return {name: Mean(number(mean.total), number(mean.count)) for name, mean in totals.items()}


def detached(totals: Totals) -> Totals:
    """The totals without their graphs, on their device in float64, so that their sums equal those of `read`."""
    return {name: Mean(exact(mean.total), exact(mean.count)) for name, mean in totals.items()}


def exact(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    return operators.as_float64(x.detach()) if x.is_floating_point() else x.detach()


def number(x: Any) -> Any:
    return x.item() if isinstance(x, Tensor | np.generic) else x


def plain(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as Python numbers, for logs and checkpoints; raises ConfigError naming one that is no number."""
    found = {}
    for name, value in metrics.items():
        try:
            found[name] = float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: a tensor of several elements
            raise ConfigError(
                f"the metric '{brief(name)}' is {brief(repr(value), 60)}; summarize returns a number for each name"
            ) from None
    return found
