"""Interpolated Kneser-Ney smoothing of n-gram counts (Kneser & Ney 1995, Chen & Goodman 1999).

C contexts of all lengths; V vocabulary.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref import operators
from dlref.errors import ConfigError
from dlref.interfaces import NGramTables, declares
from dlref.objectives import text_chunks
from dlref.objectives.language_modelling import LanguageModelling

Discounts = Literal["one", "three"]
FALLBACK: dict[Discounts, list[float]] = {"one": [0.5, 0.5, 0.5], "three": [0.5, 1.0, 1.5]}
NOTHING = -1  # padding before the first word


class KneserNey(LanguageModelling):
    """Fits NGram: P(w | c) = (count(c w) - D) / count(c) + backoff(c) P(w | c'), c' being c without its oldest word.

    After a context c of order - 1 words `count` is how often w follows; after a shorter one it is how many distinct words
    precede c w (the continuation count). backoff(c) is the probability mass that the discounts D free; without a context it
    is spread evenly over the vocabulary. `discounts` is `one` D for each length, or `three`, for counts of 1, 2 and more;
    for short texts see `discounts_of`. N-grams cross the ends of sentences. Raises ConfigError for a network without these
    tables, and for a text shorter than the order.
    """

    net: Any  # NGram
    closed_form = True

    def __init__(self, net: nn.Module, discounts: Discounts = "three") -> None:
        super().__init__(net)
        if not declares(net, NGramTables):
            raise ConfigError(f"Kneser-Ney smoothing fits NGram, not {type(net).__name__}; choose model=ngram")
        self.discounts = discounts

    def fit(self, batches: Iterable[Any]) -> None:
        net = self.net
        text = F.pad(torch.cat(list(text_chunks(batches))), (1, 0), value=NOTHING)
        keys, ngrams, counts = count_ngrams(text, net.order, net.vocab_size)
        contexts = torch.cat(ngrams) // net.vocab_size  # 0 for no context, else 1 + its index in `keys`
        words = torch.cat(ngrams) % net.vocab_size
        # Float64 throughout: sums of a million counts and more.
        discount = torch.cat([discounts_of(each, self.discounts)[each.clamp(max=3) - 1] for each in counts])
        ngram_counts, size = operators.as_float64(torch.cat(counts)), len(keys) + 1
        totals = torch.bincount(contexts, ngram_counts, size)
        probabilities = (ngram_counts - discount) / totals[contexts]
        # Nothing was counted after a context that occurs only at the start of the text.
        backoff = torch.where(totals > 0, torch.bincount(contexts, discount, size) / totals, 1.0)
        ends = torch.bincount(contexts, minlength=size).cumsum(0)
        first = int(ends[0])  # the number of unigrams
        unigrams = backoff[0] / net.vocab_size + torch.zeros_like(
            net.unigrams, dtype=operators.widest(net.unigrams.device)
        )
        unigrams[words[:first]] += probabilities[:first]
        dtype = net.unigrams.dtype
        net.unigrams, net.keys, net.backoff, net.ends = (
            unigrams.to(dtype),
            keys,
            backoff[1:].to(dtype),
            ends[1:] - first,
        )
        net.words, net.probabilities = words[first:].int(), probabilities[first:].to(dtype)


def count_ngrams(text: Tensor, order: int, vocab_size: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The keys of all contexts [C], as NGram has them; and the distinct n-grams of 1 … order words with their counts.

    An n-gram is the number (1 + index of its context, or 0 for none) V + last word. Raises ConfigError if none has `order`
    words.
    """
    last = (text != NOTHING).nonzero()[:, 0]  # position of the last word of each n-gram
    context = torch.full_like(last, -1)
    keys_by_length, ngrams, number_of_keys = [], [], 0
    for length in range(order):
        if length:
            oldest = text[last - length]
            context, last, oldest = (x[oldest != NOTHING] for x in (context, last, oldest))
            new_keys, index = ((context + 1) * vocab_size + oldest).unique(return_inverse=True)
            context, number_of_keys = number_of_keys + index, number_of_keys + len(new_keys)
            keys_by_length.append(new_keys)
        ngrams.append((context + 1) * vocab_size + text[last])
    if not len(last):
        raise ConfigError(f"network.order is {order}, and the text has fewer words in a row; choose a lower one")
    keys = torch.cat(keys_by_length) if keys_by_length else text[:0]
    counts = []
    for length, occurrences in enumerate(ngrams):
        if length < order - 1:  # continuation counts: each distinct longer n-gram once, without its oldest word
            longer = ngrams[length + 1].unique()
            occurrences = keys[longer // vocab_size - 1] // vocab_size * vocab_size + longer % vocab_size
        ngrams[length], count = occurrences.unique(return_counts=True)
        counts.append(count)
    return keys, ngrams, counts


def discounts_of(counts: Tensor, kind: Discounts) -> Tensor:
    """The discounts D of counts of 1, 2 and more [3], from how many n-grams have each count (Chen & Goodman 1999).

    If no n-gram has a count of 1 or of 2, or for `three` of 3, or if any D is not above 0, they are 0.5 for `one`, and 0.5,
    1 and 1.5 for `three`, so that every word has a probability.
    """
    n1, n2, n3, n4 = torch.bincount(counts.clamp(max=5), minlength=6)[1:5].tolist()
    discounts = FALLBACK[kind]
    if kind == "one" and n1 and n2:
        discounts = [n1 / (n1 + 2 * n2)] * 3
    elif kind == "three" and n1 and n2 and n3:
        y = n1 / (n1 + 2 * n2)
        discounts = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    discounts = discounts if min(discounts) > 0 else FALLBACK[kind]
    return torch.tensor(discounts, dtype=operators.widest(counts.device), device=counts.device)
