"""An n-gram model from counts, by interpolated Kneser-Ney smoothing (Kneser & Ney 1995, Chen & Goodman 1999)."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref import operators
from dlref.errors import ConfigError
from dlref.interfaces import NGramTables, declares
from dlref.objectives import text_parts
from dlref.objectives.language_modelling import LanguageModelling

Discounts = Literal["one", "three"]
FALLBACK: dict[Discounts, list[float]] = {"one": [0.5, 0.5, 0.5], "three": [0.5, 1.0, 1.5]}
NOTHING = -1  # stands before the first word


class KneserNey(LanguageModelling):
    """Fills the tables of NGram: P(w | c) = (count(c w) - D) / count(c) + rest(c) P(w | c without its oldest word).

    After order - 1 words it counts how often w follows, after fewer how many different words stand before c w. What is
    discounted of all words after c together is rest(c); at the end of the chain all words share it equally. `discounts` is
    `one` D for each length, or `three`: for counts of 1, 2 and more; for short texts see `discounts_of`. N-grams reach over
    ends of sentences. Raises ConfigError for a network with nothing to fill, and for a text shorter than the order.
    """

    net: Any  # NGram

    def __init__(self, net: nn.Module, discounts: Discounts = "three") -> None:
        super().__init__(net)
        if not declares(net, NGramTables):
            raise ConfigError(f"kneser_ney fits NGram, not {type(net).__name__}; choose model=ngram")
        self.discounts = discounts

    def fit(self, batches: Iterable[Any]) -> None:
        net = self.net
        text = F.pad(torch.cat(list(text_parts(batches))), (1, 0), value=NOTHING)
        keys, pairs, counts = count(text, net.order, net.vocab_size)
        where = torch.cat(pairs) // net.vocab_size  # number of the context, 1 more; 0 for no context
        words = torch.cat(pairs) % net.vocab_size
        # Float64 throughout: sums of a million counts and more.
        discount = torch.cat([discounts_of(of, self.discounts)[of.clamp(max=3) - 1] for of in counts])
        amounts, size = operators.as_float64(torch.cat(counts)), len(keys) + 1
        total = torch.bincount(where, amounts, size)
        shares = (amounts - discount) / total[where]
        # A context that only begins the text is followed by nothing that was counted.
        rest = torch.where(total > 0, torch.bincount(where, discount, size) / total, 1.0)
        ends = torch.bincount(where, minlength=size).cumsum(0)
        alone = int(ends[0])
        unigrams = rest[0] / net.vocab_size + torch.zeros_like(
            net.unigrams, dtype=operators.widest(net.unigrams.device)
        )
        unigrams[words[:alone]] += shares[:alone]
        kind = net.unigrams.dtype
        net.unigrams, net.keys, net.backoff, net.ends = unigrams.to(kind), keys, rest[1:].to(kind), ends[1:] - alone
        net.words, net.probabilities = words[alone:].int(), shares[alone:].to(kind)


def count(text: Tensor, order: int, vocabulary: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The keys of all contexts, as NGram has them; and the n-grams of 1 … order words with their counts, by length.

    An n-gram is one number, (1 + number of its context, or 0 for none) V + last word. Raises ConfigError if none has
    `order` words.
    """
    places = (text != NOTHING).nonzero()[:, 0]  # of the last word of an n-gram
    context = torch.full_like(places, -1)
    found, pairs, known = [], [], 0
    for length in range(order):
        if length:
            oldest = text[places - length]
            context, places, oldest = (x[oldest != NOTHING] for x in (context, places, oldest))
            keys, number = ((context + 1) * vocabulary + oldest).unique(return_inverse=True)
            context, known = known + number, known + len(keys)
            found.append(keys)
        pairs.append((context + 1) * vocabulary + text[places])
    if not len(places):
        raise ConfigError(f"network.order is {order}, and the text has fewer words in a row; choose a lower one")
    keys = torch.cat(found) if found else text[:0]
    counts = []
    for length, grams in enumerate(pairs):
        if length < order - 1:  # each longer n-gram once, without its oldest word
            longer = pairs[length + 1].unique()
            grams = keys[longer // vocabulary - 1] // vocabulary * vocabulary + longer % vocabulary
        pairs[length], amount = grams.unique(return_counts=True)
        counts.append(amount)
    return keys, pairs, counts


def discounts_of(counts: Tensor, kind: Discounts) -> Tensor:
    """D of counts of 1, 2 and more [3], from how many n-grams there are of each count.

    There must be some of 1 and of 2, and for `three` of 3, and each D be above 0; else it is 0.5 for `one`, and 0.5, 1 and
    1.5 for `three`, so that every word keeps a probability.
    """
    n1, n2, n3, n4 = torch.bincount(counts.clamp(max=5), minlength=6)[1:5].tolist()
    found = FALLBACK[kind]
    if kind == "one" and n1 and n2:
        found = [n1 / (n1 + 2 * n2)] * 3
    elif kind == "three" and n1 and n2 and n3:
        y = n1 / (n1 + 2 * n2)
        found = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    found = found if min(found) > 0 else FALLBACK[kind]
    return torch.tensor(found, dtype=operators.widest(counts.device), device=counts.device)
