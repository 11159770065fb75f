"""N-gram counts, discounts and probabilities from dictionaries equal those from the network's sorted tables."""

import itertools
from typing import Any, cast

import torch
from torch import Tensor

from dlref.equations import ngram
from dlref.models.ngram import NGram
from dlref.objectives.kneser_ney import Discounts, KneserNey, count_ngrams, discounts_of
from tests.proofs.harness import proves

# 6 words, of which 0 is not in the text.
WORDS = 6
TEXT = 1 + (5 * torch.rand(210, generator=torch.Generator().manual_seed(5)) ** 2).long()
LIST: list[int] = TEXT.tolist()
KINDS: tuple[Discounts, ...] = ("one", "three")


def counted(order: int) -> list[ngram.Counts]:
    """Counts of n-grams of 1, 2 … words by the fast path, with the words instead of keys."""
    keys, pairs, counts = count_ngrams(torch.nn.functional.pad(TEXT, (1, 0), value=-1), order, WORDS)

    def words_of(number: int) -> tuple[int, ...]:
        """The words of a context, the newest last, by its index plus 1."""
        key = int(keys[number - 1]) if number else 0
        return (key % WORDS, *words_of(key // WORDS)) if number else ()

    return [
        {(*words_of(pair // WORDS), pair % WORDS): n for pair, n in zip(grams.tolist(), of.tolist(), strict=True)}
        for grams, of in zip(pairs, counts, strict=True)
    ]


def contexts(length: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(WORDS), repeat=length)))


@proves(ngram.occurrences)
def occurrences(equation: Any) -> None:
    for order in (1, 2, 3, 4):
        assert equation(LIST, order) == counted(order)[-1]


@proves(ngram.continuations)
def continuations(equation: Any) -> None:
    assert [equation(LIST, length) for length in (1, 2, 3)] == counted(4)[:-1]


@proves(ngram.discounts)
def discounts(equation: Any) -> None:
    """Also without n-grams of some count, with a negative discount, and with counts beyond 4."""
    numbers = [(7, 4, 2, 1), (9, 3, 1, 0), (0, 4, 2, 1), (7, 0, 2, 1), (7, 4, 0, 1), (10, 1, 9, 1), (9, 2, 1, 5)]
    fallback = []
    for kind, many in itertools.product(KINDS, numbers):
        each = [k for k, number in enumerate((*many, 3), 1) for _ in range(number)]
        slow = equation({(number,): k for number, k in enumerate(each)}, kind)
        torch.testing.assert_close(torch.tensor(slow, dtype=torch.float64), discounts_of(torch.tensor(each), kind))
        fallback.append(slow in ([0.5] * 3, [0.5, 1.0, 1.5]))
    assert fallback == [False] * 2 + [True] * 2 + [False] * 3 + [False] * 2 + [True] * 5


@proves(ngram.kneser_ney)
def kneser_ney(equation: Any) -> None:
    """After every context of up to 3 words, known or unknown, by models of order 1 to 4."""
    for kind, order in itertools.product(KINDS, (1, 2, 3, 4)):
        grams = [ngram.continuations(LIST, n) for n in range(1, order)] + [ngram.occurrences(LIST, order)]
        orders = [(counts, ngram.discounts(counts, kind)) for counts in grams]
        net = NGram(WORDS, order).double()
        KneserNey(net, kind).fit(TEXT.split(11))
        for length in (1, 2, 3):
            tokens = contexts(length)
            seen = [tuple(words[max(length - order + 1, 0) :]) for words in tokens.tolist()]
            slow = [[equation(word, context, orders, WORDS) for word in range(WORDS)] for context in seen]
            fast = cast(Tensor, net(tokens)[0][:, -1].exp())
            torch.testing.assert_close(torch.tensor(slow, dtype=torch.float64), fast, rtol=1e-12, atol=0)


def test_the_text_has_estimated_discounts_and_unknown_contexts() -> None:
    """Otherwise the proofs above would prove less."""
    found = counted(4)
    for counts in found[2:]:
        assert ngram.discounts(counts, "three") != [0.5, 1.0, 1.5]
        assert ngram.discounts(counts, "one") != [0.5] * 3
    known = {gram[:-1] for gram in found[-1]}
    assert 0 < len(known) < WORDS**3
    assert {min(n, 3) for n in found[-1].values()} == {1, 2, 3}
