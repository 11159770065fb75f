"""Tokens are drawn by the chances that the network gives, cut as the papers say."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from dlref.decoding.sampling import filtered, generate
from dlref.errors import ConfigError

SIZE = 7


class Trigrams:
    """Scores of the next token by the two before it; token SIZE stands before the first."""

    def __init__(self, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.table = (2 * torch.randn(SIZE + 1, SIZE, SIZE, generator=draw)).requires_grad_()
        self.steps = 0

    def prefill(self, context: Tensor) -> tuple[Tensor, ...]:
        first = torch.full((len(context), 1), SIZE)
        return (torch.cat([first, context], dim=1)[:, -1],)

    def step(self, state: tuple[Tensor, ...], token: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        assert not torch.is_grad_enabled()
        self.steps += 1
        return self.table[state[0], token], (token,)


def begun(net: Trigrams, context: Any) -> tuple[tuple[Tensor, ...], Tensor]:
    """The state before the last token of a context, and that token."""
    tokens = torch.tensor(context)
    return net.prefill(tokens[:, :-1]), tokens[:, -1]


def drawn(seed: int, context: Any = ((1, 2), (3, 0), (5, 5)), length: int = 40, **settings: Any) -> Tensor:  # [B, T]
    net, draw = Trigrams(), torch.Generator().manual_seed(seed)
    return torch.stack([*generate(net, *begun(net, context), length, generator=draw, **settings)], dim=1)


def kept_by_hand(logits: list[float], temperature: float, top_k: int | None, top_p: float | None) -> list[float]:
    """One token after the other, as the papers say it."""
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    ranked = sorted(range(len(logits)), key=lambda i: -weights[i])[:top_k]
    total, kept, reached = sum(weights[i] for i in ranked), [], 0.0
    for i in ranked:
        if top_p is None or reached < top_p * total:
            kept.append(i)
            reached += weights[i]
    return [weights[i] / reached if i in kept else 0.0 for i in range(len(logits))]


@given(
    st.lists(st.integers(-9, 9), min_size=1, max_size=9, unique=True),  # no two alike, and no share at the very edge
    st.sampled_from([0.3, 1.0, 2.5]),
    st.none() | st.integers(1, 10),
    st.none() | st.sampled_from([0.0137, 0.377, 0.7413, 0.99931]),
)
def test_the_tail_is_cut_as_by_hand(
    logits: list[int], temperature: float, top_k: int | None, top_p: float | None
) -> None:
    rows = torch.tensor([logits, logits[::-1]], dtype=torch.float32)
    one, other = filtered(rows, temperature, top_k, top_p)
    expected = kept_by_hand([*map(float, logits)], temperature, top_k, top_p)
    torch.testing.assert_close(one, torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(other.flip(0), one)


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.8}, {"temperature": 2.0, "top_k": 5, "top_p": 0.7}]
)
def test_tokens_come_as_often_as_their_chances_say(settings: dict[str, Any]) -> None:
    rows = 20_000
    [first] = drawn(0, [[4, 2]] * rows, 1, **settings).unbind(1)
    scores = Trigrams().table[4, 2].tolist()
    cut = {"temperature": 1.0, "top_k": None, "top_p": None} | settings
    expected = rows * torch.tensor(kept_by_hand(scores, **cut))
    counts = first.bincount(minlength=SIZE)
    possible = expected > 0
    assert not counts[~possible].any()
    distance = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert distance < chi2.ppf(0.999, int(possible.sum()) - 1)


def test_one_token_to_draw_from_is_the_likeliest() -> None:
    net, expected = Trigrams(), []
    before, last = torch.tensor([1, 3, 5]), torch.tensor([2, 0, 5])
    for _ in range(40):
        before, last = last, net.table[before, last].argmax(dim=1)
        expected.append(last)
    greedy = torch.stack(expected, dim=1)
    assert torch.equal(drawn(0, temperature=0), greedy)
    for settings in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-320}):
        assert torch.equal(drawn(5, **settings), greedy)
    assert not torch.equal(drawn(5), greedy)


def test_nothing_cut_is_the_plain_softmax() -> None:
    logits = 3 * torch.randn(50, 1000, generator=torch.Generator().manual_seed(0))
    plain = logits.double().softmax(dim=1)
    for settings in ({}, {"top_p": 1.0}, {"top_k": 1000}, {"top_k": 5000, "top_p": 1.0}):
        torch.testing.assert_close(filtered(logits, **settings), plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(filtered(logits, top_p=1 - 1e-12), plain, rtol=1e-9, atol=1e-11)
    assert filtered(torch.tensor([[0.0, -50.0]]), top_p=1.0)[0, 1] > 0  # although the first share rounds to 1
    assert torch.equal(drawn(3, top_p=1.0, top_k=SIZE), drawn(3))


def test_of_equally_likely_tokens_as_many_are_kept_as_asked() -> None:
    level = torch.zeros(2, 8)
    assert (filtered(level, top_k=3) > 0).sum(dim=1).tolist() == [3, 3]
    assert (filtered(level, top_p=0.5) > 0).sum(dim=1).tolist() == [4, 4]  # which reach it exactly
    assert (filtered(level, top_p=0.51) > 0).sum(dim=1).tolist() == [5, 5]


def test_a_row_alone_is_that_row_of_a_batch() -> None:
    together = drawn(0, temperature=0)
    for row, context in enumerate(((1, 2), (3, 0), (5, 5))):
        assert torch.equal(drawn(0, [context], temperature=0)[0], together[row])


def test_writing_on_from_what_was_written_is_writing_at_once() -> None:
    whole = drawn(0, [[1, 2]], temperature=0)
    context = torch.cat([torch.tensor([[1, 2]]), whole[:, :13]], dim=1)
    assert torch.equal(drawn(0, context.tolist(), 27, temperature=0), whole[:, 13:])
    assert drawn(0, [[1]], 3).shape == (1, 3)  # a network may begin with nothing before its first token


def test_a_seed_says_what_is_drawn_and_touches_no_other_chance() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn(4), drawn(4))
    assert not torch.equal(drawn(4), drawn(5))
    assert torch.equal(torch.rand(3), expected)


def test_forbidden_tokens_leave_their_share_to_the_others() -> None:
    rows = 20_000
    [first] = drawn(0, [[4, 2]] * rows, 1, forbidden=[0, 3]).unbind(1)
    scores = Trigrams().table[4, 2].detach().clone()
    scores[[0, 3]] = -torch.inf
    counts = first.bincount(minlength=SIZE)
    assert counts[[0, 3]].tolist() == [0, 0]
    torch.testing.assert_close(counts / rows, scores.softmax(dim=0), atol=0.015, rtol=0)


def test_a_forbidden_token_is_written_where_no_other_is_possible() -> None:
    net = Trigrams()
    with torch.no_grad():
        net.table[:, 1] = -torch.inf
        net.table[:, 1, 6] = 0.0
    written = [int(token) for token in generate(net, *begun(net, [[1]]), 2, forbidden=[6, 5])]
    assert written[0] == 6
    assert written[1] not in (5, 6)


def test_a_row_that_has_stopped_waits_for_the_others() -> None:
    free, stopped = drawn(1), drawn(1, stop=2)
    ends = [row.index(2) for row in free.tolist()]  # the same draws up to there
    assert len({*ends}) > 1
    assert stopped.shape[1] == max(ends) + 1
    for row, end in enumerate(ends):
        assert torch.equal(stopped[row, : end + 1], free[row, : end + 1])
        assert (stopped[row, end:] == 2).all()


def test_each_token_comes_before_the_next_is_computed() -> None:
    net = Trigrams()
    tokens = generate(net, *begun(net, [[1, 2]]), 10**9)
    for number in range(1, 4):
        next(tokens)
        assert torch.is_grad_enabled()
        assert net.steps == number


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"length": 0}, "length is 0"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, r"top_p is 0\.0"),
        ({"top_p": 1.5}, r"top_p is 1\.5"),
        ({"top_p": math.nan}, "top_p is nan"),
    ],
)
def test_values_that_say_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        drawn(0, **settings)
