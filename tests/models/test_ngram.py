"""The n-gram model computes a text at once, in segments and word by word alike; its tables are saved and loaded."""

import pytest
import torch
from torch import Tensor

from dlref.errors import CheckpointError, ConfigError
from dlref.interfaces import TokenBatch
from dlref.models.ngram import NGram
from dlref.objectives.kneser_ney import KneserNey
from dlref.training.state import load_weights, weights

WORDS = 6
ORDERS = pytest.mark.parametrize("order", [1, 2, 3, 5])


def random_tokens(rows: int, length: int, seed: int) -> Tensor:
    return (WORDS * torch.rand(rows, length, generator=torch.Generator().manual_seed(seed)) ** 2).long()


def fitted(order: int, length: int = 80) -> NGram:
    net, text = NGram(WORDS, order), random_tokens(1, 2 * length, seed=1)
    KneserNey(net).fit([text[0]])
    return net


@ORDERS
@pytest.mark.parametrize("before", [0, 1, 4])
def test_word_by_word_equals_all_at_once(order: int, before: int) -> None:
    net, tokens = fitted(order), random_tokens(3, 9, seed=2)
    expected, end = net(tokens)
    state = net.prefill(tokens[:, :before])
    for t in range(before, 9):
        logits, state = net.step(state, tokens[:, t])
        torch.testing.assert_close(logits, expected[:, t])
    assert torch.equal(state[0], end[0])
    assert state[0].shape == (3, order - 1)


@ORDERS
def test_rows_of_a_state_can_be_reordered(order: int) -> None:
    net, tokens = fitted(order), random_tokens(3, 5, seed=2)
    rows, token = torch.tensor([2, 0, 2, 1]), torch.tensor([1, 4, 0, 3])
    (state,) = net.prefill(tokens)
    expected = net(torch.cat([tokens[rows], token[:, None]], 1))[0][:, -1]
    torch.testing.assert_close(net.step((state[rows],), token)[0], expected)


@ORDERS
@pytest.mark.parametrize("length", [1, 2, 7])
def test_segments_with_carried_state_equal_the_whole_text(order: int, length: int) -> None:
    net, text = fitted(order), random_tokens(3, 20, seed=3)
    objective = KneserNey(net).eval()
    whole = objective(TokenBatch(text[:, :-1], text[:, 1:], True))
    parts = [
        objective(TokenBatch(tokens, targets, number == 0))
        for number, (tokens, targets) in enumerate(
            zip(text[:, :-1].split(length, 1), text[:, 1:].split(length, 1), strict=True)
        )
    ]
    for name in ("nll", "accuracy"):
        total = sum(float(part[name].total) for part in parts)
        assert total == pytest.approx(float(whole[name].total), rel=1e-5)
        assert sum(int(part[name].count) for part in parts) == whole[name].count == 3 * 19


def test_before_fitting_the_distribution_is_uniform() -> None:
    torch.testing.assert_close(NGram(WORDS)(random_tokens(2, 4, 0))[0].exp(), torch.full((2, 4, WORDS), 1 / WORDS))


@pytest.mark.parametrize("length", [12, 80])
def test_tables_of_any_length_can_be_loaded(length: int) -> None:
    net, other, tokens = fitted(4, length), NGram(WORDS, 4), random_tokens(3, 9, seed=2)
    load_weights(other, weights(net), "here")
    assert torch.equal(other(tokens)[0], net(tokens)[0])
    load_weights(other, weights(net), "here")  # again, as when resuming


def test_tables_of_another_vocabulary_or_kind_are_refused() -> None:
    saved = weights(fitted(4))
    with pytest.raises(CheckpointError, match="unigrams is 6 there, 7 here"):
        load_weights(NGram(WORDS + 1, 4), saved, "here")
    with pytest.raises(CheckpointError, match="keys is 2×3 there"):
        load_weights(NGram(WORDS, 4), saved | {"keys": torch.zeros(2, 3, dtype=torch.int64)}, "here")


def test_an_order_below_1_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"network\.order is 0"):
        NGram(WORDS, 0)
