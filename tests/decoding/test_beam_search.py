"""A wide beam finds what an exhaustive search finds, a beam of one is greedy decoding."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dlref.decoding.beam_search import beam_search
from dlref.decoding.sampling import generate
from dlref.errors import ConfigError

SIZE, EOS = 4, 2
CONTEXTS = ((3, 1), (0, 0), (1, 3), (2, 1), (3, 3))  # the two tokens before the decoded ones, of each row


class Trigrams:
    """Logits of the next token by the two before it."""

    def __init__(self, seed: int = 0, size: int = SIZE) -> None:
        self.table = 2 * torch.randn(size, size, size, generator=torch.Generator().manual_seed(seed))
        self.rows: list[int] = []

    def step(self, state: tuple[Tensor, ...], token: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        previous, unused = state
        assert unused.shape == (len(token), 3, 2)
        self.rows.append(len(token))
        return self.table[previous, token], (token, unused)


def prefilled(contexts: Any = CONTEXTS) -> tuple[tuple[Tensor, ...], Tensor]:
    """The state before the last token of each context, and that token."""
    previous, token = torch.tensor(contexts).unbind(1)
    return (previous, torch.zeros(len(token), 3, 2)), token


def score_by_hand(net: Trigrams, context: tuple[int, int], tokens: tuple[int, ...], length_penalty: float) -> float:
    """Wu et al. 2016, equation 14, token by token."""
    previous, last = context
    log_p = 0.0
    for token in tokens:
        log_p += float(net.table[previous, last].double().log_softmax(0)[token])
        previous, last = last, token
    return log_p / ((5 + len(tokens)) / 6) ** length_penalty


def all_finished(length: int, size: int = SIZE) -> list[tuple[int, ...]]:
    """All sequences of at most `length` tokens that end with EOS."""
    others = [token for token in range(size) if token != EOS]
    return [(*start, EOS) for count in range(length) for start in itertools.product(others, repeat=count)]


def up_to_eos(row: Tensor) -> tuple[int, ...]:
    tokens = row.tolist()
    return tuple(tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 3.0])
def test_a_beam_wide_enough_equals_an_exhaustive_search(seed: int, length_penalty: float) -> None:
    net, length = Trigrams(seed), 4
    tokens, scores = beam_search(net, *prefilled(), length, SIZE**length, EOS, length_penalty)
    for context, row, score in zip(CONTEXTS, tokens, scores.tolist(), strict=True):
        expected = max(all_finished(length), key=lambda each: score_by_hand(net, context, each, length_penalty))
        assert up_to_eos(row) == expected
        assert score == pytest.approx(score_by_hand(net, context, expected, length_penalty), rel=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_a_beam_of_one_is_greedy_decoding(seed: int) -> None:
    net = Trigrams(seed)
    for length in (1, 3, 12):
        greedy = torch.stack([*generate(net, *prefilled(), length, temperature=0, eos=EOS)], dim=1)
        for length_penalty in (0.0, 2.0):
            assert torch.equal(beam_search(net, *prefilled(), length, 1, EOS, length_penalty)[0], greedy)


def beam_search_by_hand(
    net: Trigrams, context: tuple[int, int], length: int, width: int, length_penalty: float
) -> tuple[tuple[int, ...], float]:
    """One row, one hypothesis after the other."""
    beam: list[tuple[int, ...]] = [()]
    finished: list[tuple[int, ...]] = []
    for _ in range(length):
        extended = [(*start, token) for start in beam for token in range(len(net.table))]
        extended.sort(key=lambda tokens: -score_by_hand(net, context, tokens, 0.0))
        finished += [tokens for tokens in extended[:width] if tokens[-1] == EOS]
        beam = [tokens for tokens in extended if tokens[-1] != EOS][:width]
        if len(finished) >= width:
            break
    return max((score_by_hand(net, context, tokens, length_penalty), tokens) for tokens in finished or beam[:1])[::-1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("width", [2, 3, 4])
def test_a_narrow_beam_equals_beam_search_by_hand(seed: int, width: int) -> None:
    net = Trigrams(seed, size=7)
    for length_penalty, length in ((0.0, 3), (0.6, 8), (2.0, 5)):
        tokens, scores = beam_search(net, *prefilled(), length, width, EOS, length_penalty)
        for context, row, score in zip(CONTEXTS, tokens, scores.tolist(), strict=True):
            expected, expected_score = beam_search_by_hand(net, context, length, width, length_penalty)
            assert up_to_eos(row) == expected
            assert score == pytest.approx(expected_score, rel=1e-5)


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0])
def test_scores_are_those_of_the_tokens_and_a_wider_beam_finds_no_worse_here(width: int, length_penalty: float) -> None:
    net = Trigrams(1, size=9)
    tokens, scores = beam_search(net, *prefilled(), 12, width, EOS, length_penalty)
    for context, row, score in zip(CONTEXTS, tokens, scores.tolist(), strict=True):
        assert score == pytest.approx(score_by_hand(net, context, up_to_eos(row), length_penalty), rel=1e-5)
    wider = beam_search(net, *prefilled(), 12, width + 20, EOS, length_penalty)[1]
    assert (wider >= scores - 1e-9).all()


@pytest.mark.parametrize("width", [1, 3, 7])
def test_a_row_does_not_depend_on_the_rest_of_its_batch(width: int) -> None:
    net, limits = Trigrams(5, size=9), torch.tensor([9, 2, 14, 1, 6])
    tokens, scores = beam_search(net, *prefilled(), limits, width, EOS)
    order = [3, 0, 4, 2, 1]
    permuted, permuted_scores = beam_search(
        net, *prefilled([CONTEXTS[row] for row in order]), limits[order], width, EOS
    )
    torch.testing.assert_close(permuted_scores, scores[order], rtol=0, atol=0)
    assert torch.equal(permuted, tokens[order])
    for row, context in enumerate(CONTEXTS):
        alone, score = beam_search(net, *prefilled([context]), int(limits[row]), width, EOS)
        assert up_to_eos(alone[0]) == up_to_eos(tokens[row])[: int(limits[row])]
        assert (tokens[row, alone.shape[1] :] == EOS).all()
        assert score == scores[row]


def test_the_length_penalty_decides_between_a_short_and_a_long_hypothesis() -> None:
    net = Trigrams()
    net.table[:] = -math.inf
    net.table[:, 0, EOS], net.table[:, 0, 1] = math.log(0.5), math.log(0.5)  # ends at once with probability 1/2
    net.table[:, 1, 3], net.table[:, 3, EOS] = math.log(0.9), 0.0
    net.table[:, 1, 0] = math.log(0.1)
    short, long = (EOS,), (1, 3, EOS)  # probabilities 1/2 and 0.45
    for length_penalty, best in ((0.0, short), (0.5, long), (2.0, long)):
        tokens, scores = beam_search(net, *prefilled([(0, 0)]), 5, 3, EOS, length_penalty)
        assert up_to_eos(tokens[0]) == best
        assert float(scores[0]) == pytest.approx(score_by_hand(net, (0, 0), best, length_penalty))
    threshold = math.log(math.log(0.45) / math.log(0.5)) / math.log(8 / 6)  # above it the long one wins
    for length_penalty, best in ((threshold - 0.01, short), (threshold + 0.01, long)):
        assert up_to_eos(beam_search(net, *prefilled([(0, 0)]), 5, 3, EOS, length_penalty)[0][0]) == best


def test_a_hypothesis_cut_at_the_length_counts_only_where_none_is_finished() -> None:
    net = Trigrams(3)
    net.table[:, :, EOS] -= 12  # very improbable
    for length_penalty in (0.0, 1.0):
        tokens, scores = beam_search(net, *prefilled(), 3, SIZE**3, EOS, length_penalty)
        assert all(up_to_eos(row)[-1] == EOS for row in tokens)
        assert (scores < -4).all()
    net.table[:, :, EOS] = -math.inf
    tokens, scores = beam_search(net, *prefilled(), 3, SIZE**3, EOS, 1.0)
    for context, row, score in zip(CONTEXTS, tokens, scores.tolist(), strict=True):
        unfinished = itertools.product([0, 1, 3], repeat=3)
        expected = max(unfinished, key=lambda each: score_by_hand(net, context, each, 1.0))
        assert tuple(row.tolist()) == expected
        assert score == pytest.approx(score_by_hand(net, context, expected, 1.0), rel=1e-5)


def test_forbidden_tokens_keep_their_probability_but_are_not_decoded() -> None:
    net, length = Trigrams(2), 4
    tokens, scores = beam_search(net, *prefilled(), length, SIZE**length, EOS, 0.6, forbidden=[0, 3])
    allowed = [each for each in all_finished(length) if not {0, 3} & {*each}]
    for context, row, score in zip(CONTEXTS, tokens, scores.tolist(), strict=True):
        expected = max(allowed, key=lambda each: score_by_hand(net, context, each, 0.6))
        assert up_to_eos(row) == expected
        assert score == pytest.approx(score_by_hand(net, context, expected, 0.6), rel=1e-5)


def test_a_row_that_has_ended_is_computed_no_further() -> None:
    net = Trigrams()
    net.table[:] = -math.inf
    net.table[:, :, 0] = 0.0
    net.table[0, 0, EOS], net.table[0, 0, 0] = 0.0, -9.0  # which only the second row meets
    tokens, _ = beam_search(net, *prefilled([(3, 1), (0, 0)]), torch.tensor([2, 50]), 2, EOS, 0.0)
    assert tokens.tolist() == [[0, 0], [EOS, EOS]]
    assert net.rows == [4, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"length": 0}, "length is 0"),
        ({"length_penalty": -0.1}, "penalty is -0.1"),
        ({"length_penalty": math.nan}, "penalty is nan"),
        ({"length_penalty": math.inf}, "penalty is inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        beam_search(Trigrams(), *prefilled(), **{"length": 3, "width": 2, "eos": EOS} | settings)
