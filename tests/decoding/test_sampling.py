"""Tokens are sampled with the network's probabilities, truncated as in the papers."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from dlref.decoding.sampling import generate, sampling_probabilities
from dlref.errors import ConfigError

SIZE = 7


class Trigrams:
    """Logits of the next token by the two before it; token SIZE stands before the first."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = (2 * torch.randn(SIZE + 1, SIZE, SIZE, generator=generator)).requires_grad_()
        self.steps = 0

    def prefill(self, context: Tensor) -> tuple[Tensor, ...]:
        first = torch.full((len(context), 1), SIZE)
        return (torch.cat([first, context], dim=1)[:, -1],)

    def step(self, state: tuple[Tensor, ...], token: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        assert not torch.is_grad_enabled()
        self.steps += 1
        return self.table[state[0], token], (token,)


def prefilled(net: Trigrams, context: Any) -> tuple[tuple[Tensor, ...], Tensor]:
    """The state before the last token of a context, and that token."""
    tokens = torch.tensor(context)
    return net.prefill(tokens[:, :-1]), tokens[:, -1]


def sampled(seed: int, context: Any = ((1, 2), (3, 0), (5, 5)), length: int = 40, **settings: Any) -> Tensor:  # [B, T]
    net, generator = Trigrams(), torch.Generator().manual_seed(seed)
    return torch.stack([*generate(net, *prefilled(net, context), length, generator=generator, **settings)], dim=1)


def probabilities_by_hand(
    logits: list[float], temperature: float, top_k: int | None, top_p: float | None
) -> list[float]:
    """One token after the other, as in the papers."""
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    ranked = sorted(range(len(logits)), key=lambda i: -weights[i])[:top_k]
    total, kept, reached = sum(weights[i] for i in ranked), [], 0.0
    for i in ranked:
        if top_p is None or reached < top_p * total:
            kept.append(i)
            reached += weights[i]
    return [weights[i] / reached if i in kept else 0.0 for i in range(len(logits))]


@given(
    st.lists(st.integers(-9, 9), min_size=1, max_size=9, unique=True),  # no ties, and no sum exactly at top_p
    st.sampled_from([0.3, 1.0, 2.5]),
    st.none() | st.integers(1, 10),
    st.none() | st.sampled_from([0.0137, 0.377, 0.7413, 0.99931]),
)
def test_top_k_and_top_p_truncate_as_computed_by_hand(
    logits: list[int], temperature: float, top_k: int | None, top_p: float | None
) -> None:
    rows = torch.tensor([logits, logits[::-1]], dtype=torch.float32)
    forward, backward = sampling_probabilities(rows, temperature, top_k, top_p)
    expected = probabilities_by_hand([*map(float, logits)], temperature, top_k, top_p)
    torch.testing.assert_close(forward, torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(backward.flip(0), forward)


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.8}, {"temperature": 2.0, "top_k": 5, "top_p": 0.7}]
)
def test_tokens_are_sampled_as_often_as_their_probability_says(settings: dict[str, Any]) -> None:
    rows = 20_000
    [first] = sampled(0, [[4, 2]] * rows, 1, **settings).unbind(1)
    logits = Trigrams().table[4, 2].tolist()
    all_settings = {"temperature": 1.0, "top_k": None, "top_p": None} | settings
    expected = rows * torch.tensor(probabilities_by_hand(logits, **all_settings))
    counts = first.bincount(minlength=SIZE)
    possible = expected > 0
    assert not counts[~possible].any()
    statistic = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert statistic < chi2.ppf(0.999, int(possible.sum()) - 1)


def test_settings_that_leave_one_token_are_greedy_decoding() -> None:
    net, expected = Trigrams(), []
    before, last = torch.tensor([1, 3, 5]), torch.tensor([2, 0, 5])
    for _ in range(40):
        before, last = last, net.table[before, last].argmax(dim=1)
        expected.append(last)
    greedy = torch.stack(expected, dim=1)
    assert torch.equal(sampled(0, temperature=0), greedy)
    for settings in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-320}):
        assert torch.equal(sampled(5, **settings), greedy)
    assert not torch.equal(sampled(5), greedy)


def test_settings_that_truncate_nothing_give_the_plain_softmax() -> None:
    logits = 3 * torch.randn(50, 1000, generator=torch.Generator().manual_seed(0))
    plain = logits.double().softmax(dim=1)
    for settings in ({}, {"top_p": 1.0}, {"top_k": 1000}, {"top_k": 5000, "top_p": 1.0}):
        torch.testing.assert_close(sampling_probabilities(logits, **settings), plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(sampling_probabilities(logits, top_p=1 - 1e-12), plain, rtol=1e-9, atol=1e-11)
    assert (
        sampling_probabilities(torch.tensor([[0.0, -50.0]]), top_p=1.0)[0, 1] > 0
    )  # although the first probability rounds to 1
    assert torch.equal(sampled(3, top_p=1.0, top_k=SIZE), sampled(3))


def test_of_equally_probable_tokens_exactly_as_many_are_kept_as_settings_say() -> None:
    uniform = torch.zeros(2, 8)
    assert (sampling_probabilities(uniform, top_k=3) > 0).sum(dim=1).tolist() == [3, 3]
    assert (sampling_probabilities(uniform, top_p=0.5) > 0).sum(dim=1).tolist() == [4, 4]  # which reach it exactly
    assert (sampling_probabilities(uniform, top_p=0.51) > 0).sum(dim=1).tolist() == [5, 5]


def test_a_row_does_not_depend_on_the_rest_of_its_batch() -> None:
    together = sampled(0, temperature=0)
    for row, context in enumerate(((1, 2), (3, 0), (5, 5))):
        assert torch.equal(sampled(0, [context], temperature=0)[0], together[row])


def test_continuing_from_generated_tokens_equals_generating_at_once() -> None:
    at_once = sampled(0, [[1, 2]], temperature=0)
    context = torch.cat([torch.tensor([[1, 2]]), at_once[:, :13]], dim=1)
    assert torch.equal(sampled(0, context.tolist(), 27, temperature=0), at_once[:, 13:])
    assert sampled(0, [[1]], 3).shape == (1, 3)  # after a context of no tokens before the last


def test_a_seed_decides_the_samples_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(sampled(4), sampled(4))
    assert not torch.equal(sampled(4), sampled(5))
    assert torch.equal(torch.rand(3), expected)


def test_probabilities_of_forbidden_tokens_go_to_the_others_in_proportion() -> None:
    rows = 20_000
    [first] = sampled(0, [[4, 2]] * rows, 1, forbidden=[0, 3]).unbind(1)
    logits = Trigrams().table[4, 2].detach().clone()
    logits[[0, 3]] = -torch.inf
    counts = first.bincount(minlength=SIZE)
    assert counts[[0, 3]].tolist() == [0, 0]
    torch.testing.assert_close(counts / rows, logits.softmax(dim=0), atol=0.015, rtol=0)


def test_a_forbidden_token_is_sampled_where_no_other_is_possible() -> None:
    net = Trigrams()
    with torch.no_grad():
        net.table[:, 1] = -torch.inf
        net.table[:, 1, 6] = 0.0
    tokens = [int(token) for token in generate(net, *prefilled(net, [[1]]), 2, forbidden=[6, 5])]
    assert tokens[0] == 6
    assert tokens[1] not in (5, 6)


def test_a_row_that_has_ended_is_padded_until_all_have() -> None:
    endless, ended = sampled(1), sampled(1, eos=2)
    ends = [row.index(2) for row in endless.tolist()]  # the same samples up to there
    assert len({*ends}) > 1
    assert ended.shape[1] == max(ends) + 1
    for row, end in enumerate(ends):
        assert torch.equal(ended[row, : end + 1], endless[row, : end + 1])
        assert (ended[row, end:] == 2).all()


def test_each_token_is_yielded_before_the_next_is_computed() -> None:
    net = Trigrams()
    tokens = generate(net, *prefilled(net, [[1, 2]]), 10**9)
    for number in range(1, 4):
        next(tokens)
        assert torch.is_grad_enabled()
        assert net.steps == number


@pytest.mark.parametrize(
    ("settings", "message"),
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
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sampled(0, **settings)
