"""Beam search finds what a search of everything finds, where it is wide enough, and what is likeliest step by step, where
it is narrow."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dlref.decoding.sampling import beam_search, generate
from dlref.errors import ConfigError

SIZE, STOP = 4, 2
FIRST = ((3, 1), (0, 0), (1, 3), (2, 1), (3, 3))  # the two tokens before what is written, of each row


class Trigrams:
    """Scores of the next token by the two before it."""

    def __init__(self, seed: int = 0, size: int = SIZE) -> None:
        self.table = 2 * torch.randn(size, size, size, generator=torch.Generator().manual_seed(seed))
        self.rows: list[int] = []

    def step(self, state: tuple[Tensor, ...], token: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        before, anything = state
        assert anything.shape == (len(token), 3, 2)
        self.rows.append(len(token))
        return self.table[before, token], (token, anything)


def begun(first: Any = FIRST) -> tuple[tuple[Tensor, ...], Tensor]:
    before, token = torch.tensor(first).unbind(1)
    return (before, torch.zeros(len(token), 3, 2)), token


def score_by_hand(net: Trigrams, first: tuple[int, int], written: tuple[int, ...], penalty: float) -> float:
    """Wu et al. 2016, equation 14, token by token."""
    before, last = first
    total = 0.0
    for token in written:
        total += float(net.table[before, last].double().log_softmax(0)[token])
        before, last = last, token
    return total / ((5 + len(written)) / 6) ** penalty


def all_that_stop(length: int, size: int = SIZE) -> list[tuple[int, ...]]:
    others = [token for token in range(size) if token != STOP]
    return [(*start, STOP) for count in range(length) for start in itertools.product(others, repeat=count)]


def trimmed(row: Tensor) -> tuple[int, ...]:
    """Up to its first stop."""
    tokens = row.tolist()
    return tuple(tokens[: tokens.index(STOP) + 1] if STOP in tokens else tokens)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 3.0])
def test_a_beam_wide_enough_is_a_search_of_everything(seed: int, penalty: float) -> None:
    net, length = Trigrams(seed), 4
    tokens, scores = beam_search(net, *begun(), length, SIZE**length, STOP, penalty)
    for first, row, score in zip(FIRST, tokens, scores.tolist(), strict=True):
        expected = max(all_that_stop(length), key=lambda written: score_by_hand(net, first, written, penalty))
        assert trimmed(row) == expected
        assert score == pytest.approx(score_by_hand(net, first, expected, penalty), rel=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_a_beam_of_one_takes_the_likeliest_always(seed: int) -> None:
    net = Trigrams(seed)
    for length in (1, 3, 12):
        greedy = torch.stack([*generate(net, *begun(), length, temperature=0, stop=STOP)], dim=1)
        for penalty in (0.0, 2.0):
            assert torch.equal(beam_search(net, *begun(), length, 1, STOP, penalty)[0], greedy)


def searched_by_hand(
    net: Trigrams, first: tuple[int, int], length: int, width: int, penalty: float
) -> tuple[tuple[int, ...], float]:
    """One sequence after the other, all that each can go on with."""
    going: list[tuple[int, ...]] = [()]
    stopped: list[tuple[int, ...]] = []
    for _ in range(length):
        longer = [(*start, token) for start in going for token in range(len(net.table))]
        longer.sort(key=lambda written: -score_by_hand(net, first, written, 0.0))
        stopped += [written for written in longer[:width] if written[-1] == STOP]
        going = [written for written in longer if written[-1] != STOP][:width]
        if len(stopped) >= width:
            break
    return max((score_by_hand(net, first, written, penalty), written) for written in stopped or going[:1])[::-1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("width", [2, 3, 4])
def test_a_narrow_beam_is_the_search_by_hand(seed: int, width: int) -> None:
    net = Trigrams(seed, size=7)
    for penalty, length in ((0.0, 3), (0.6, 8), (2.0, 5)):
        tokens, scores = beam_search(net, *begun(), length, width, STOP, penalty)
        for first, row, score in zip(FIRST, tokens, scores.tolist(), strict=True):
            expected, expected_score = searched_by_hand(net, first, length, width, penalty)
            assert trimmed(row) == expected
            assert score == pytest.approx(expected_score, rel=1e-5)


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
def test_a_score_is_that_of_its_tokens_and_a_wider_beam_finds_no_worse_here(width: int, penalty: float) -> None:
    net = Trigrams(1, size=9)
    tokens, scores = beam_search(net, *begun(), 12, width, STOP, penalty)
    for first, row, score in zip(FIRST, tokens, scores.tolist(), strict=True):
        assert score == pytest.approx(score_by_hand(net, first, trimmed(row), penalty), rel=1e-5)
    wider = beam_search(net, *begun(), 12, width + 20, STOP, penalty)[1]
    assert (wider >= scores - 1e-9).all()


@pytest.mark.parametrize("width", [1, 3, 7])
def test_a_row_alone_or_elsewhere_is_that_row(width: int) -> None:
    net, limits = Trigrams(5, size=9), torch.tensor([9, 2, 14, 1, 6])
    tokens, scores = beam_search(net, *begun(), limits, width, STOP)
    order = [3, 0, 4, 2, 1]
    moved, moved_scores = beam_search(net, *begun([FIRST[row] for row in order]), limits[order], width, STOP)
    torch.testing.assert_close(moved_scores, scores[order], rtol=0, atol=0)
    assert torch.equal(moved, tokens[order])
    for row, first in enumerate(FIRST):
        alone, score = beam_search(net, *begun([first]), int(limits[row]), width, STOP)
        assert trimmed(alone[0]) == trimmed(tokens[row])[: int(limits[row])]
        assert (tokens[row, alone.shape[1] :] == STOP).all()
        assert score == scores[row]


def test_the_penalty_says_whether_the_short_or_the_long_one_wins() -> None:
    net = Trigrams()
    net.table[:] = -math.inf
    net.table[:, 0, STOP], net.table[:, 0, 1] = math.log(0.5), math.log(0.5)  # at once, with 1/2
    net.table[:, 1, 3], net.table[:, 3, STOP] = math.log(0.9), 0.0
    net.table[:, 1, 0] = math.log(0.1)
    short, long = (STOP,), (1, 3, STOP)  # 1/2 and 0.45
    for penalty, best in ((0.0, short), (0.5, long), (2.0, long)):
        tokens, scores = beam_search(net, *begun([(0, 0)]), 5, 3, STOP, penalty)
        assert trimmed(tokens[0]) == best
        assert float(scores[0]) == pytest.approx(score_by_hand(net, (0, 0), best, penalty))
    wins = math.log(math.log(0.45) / math.log(0.5)) / math.log(8 / 6)  # from which penalty on
    for penalty, best in ((wins - 0.01, short), (wins + 0.01, long)):
        assert trimmed(beam_search(net, *begun([(0, 0)]), 5, 3, STOP, penalty)[0][0]) == best


def test_what_has_not_stopped_is_cut_only_where_nothing_has() -> None:
    net = Trigrams(3)
    net.table[:, :, STOP] -= 12  # far less likely than to go on
    for penalty in (0.0, 1.0):
        tokens, scores = beam_search(net, *begun(), 3, SIZE**3, STOP, penalty)
        assert all(trimmed(row)[-1] == STOP for row in tokens)
        assert (scores < -4).all()
    net.table[:, :, STOP] = -math.inf
    tokens, scores = beam_search(net, *begun(), 3, SIZE**3, STOP, 1.0)
    for first, row, score in zip(FIRST, tokens, scores.tolist(), strict=True):
        every = itertools.product([0, 1, 3], repeat=3)
        expected = max(every, key=lambda written: score_by_hand(net, first, written, 1.0))
        assert tuple(row.tolist()) == expected
        assert score == pytest.approx(score_by_hand(net, first, expected, 1.0), rel=1e-5)


def test_forbidden_tokens_keep_their_chance_but_are_not_written() -> None:
    net, length = Trigrams(2), 4
    tokens, scores = beam_search(net, *begun(), length, SIZE**length, STOP, 0.6, forbidden=[0, 3])
    left = [written for written in all_that_stop(length) if not {0, 3} & {*written}]
    for first, row, score in zip(FIRST, tokens, scores.tolist(), strict=True):
        expected = max(left, key=lambda written: score_by_hand(net, first, written, 0.6))
        assert trimmed(row) == expected
        assert score == pytest.approx(score_by_hand(net, first, expected, 0.6), rel=1e-5)


def test_a_row_that_has_ended_costs_nothing_more() -> None:
    net = Trigrams()
    net.table[:] = -math.inf
    net.table[:, :, 0] = 0.0
    net.table[0, 0, STOP], net.table[0, 0, 0] = 0.0, -9.0  # which only the second row sees
    net.rows.clear()
    tokens, _ = beam_search(net, *begun([(3, 1), (0, 0)]), torch.tensor([2, 50]), 2, STOP, 0.0)
    assert tokens.tolist() == [[0, 0], [STOP, STOP]]
    assert net.rows == [4, 2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"width": 0}, "width is 0"),
        ({"length": 0}, "length is 0"),
        ({"penalty": -0.1}, "penalty is -0.1"),
        ({"penalty": math.nan}, "penalty is nan"),
        ({"penalty": math.inf}, "penalty is inf"),
    ],
)
def test_values_that_say_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        beam_search(Trigrams(), *begun(), **{"length": 3, "width": 2, "stop": STOP} | settings)
