"""Columns of text miss nothing."""

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dlref.data import Shard
from dlref.data.language import LanguageModelText, Order, Piece
from dlref.data.markov_chain import MarkovChain
from dlref.data.python_docs import PythonDocs
from dlref.data.text import Vocabulary
from dlref.errors import ConfigError, DataError

NET = nn.Linear(1, 1)


class Numbers(LanguageModelText):
    def __init__(
        self, tokens: int, batch_size: int, length: int, eval_columns: int = 1, order: Order = "fixed"
    ) -> None:
        super().__init__(batch_size, length, eval_columns, order, seed=0)
        self.vocabulary = Vocabulary(["<unk>"])
        self.splits = {"train": torch.arange(tokens), "eval": torch.arange(tokens)}


@given(st.integers(2, 200), st.integers(1, 7), st.integers(1, 9), st.integers(1, 5))
def test_training_columns_go_on_where_they_ended(tokens: int, size: int, length: int, columns: int) -> None:
    data = Numbers(tokens, size, length, columns)
    if (tokens - 1) // size < 1:
        with pytest.raises(DataError, match="too short"):
            next(data.train_batches(NET, Shard(), 0))
        return
    pieces: list[Piece] = list(islice(data.train_batches(NET, Shard(), 0), int(data.batches_per_pass)))
    assert [piece.begins for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    rows = torch.cat([piece.tokens for piece in pieces], dim=1)
    assert torch.equal(rows, torch.arange((tokens - 1) // size * size).view(size, -1))
    assert all(torch.equal(piece.targets, piece.tokens + 1) for piece in pieces)
    assert next(data.train_batches(NET, Shard(), len(pieces))).begins


@pytest.mark.parametrize("order", ["shifted", "rotated"])
def test_other_passes_cut_the_text_at_other_places_and_miss_nothing(order: Order) -> None:
    data = Numbers(62, 3, 4, order=order)  # three columns of 20 tokens
    pieces: list[Piece] = list(islice(data.train_batches(NET, Shard(), 0), 15))
    assert [piece.begins for piece in pieces] == [number % 5 == 0 for number in range(15)]
    assert all(torch.equal(piece.targets, piece.tokens + 1) for piece in pieces)
    passes = [torch.cat([piece.tokens for piece in pieces[at : at + 5]], dim=1) for at in (0, 5, 10)]
    assert torch.equal(passes[0], torch.arange(60).view(3, 20))
    assert len({tuple(rows[:, 0].tolist()) for rows in passes}) == 3
    for rows in passes[1:]:
        rotated = order == "rotated"
        assert rotated == torch.equal(rows.sort(1).values, passes[0])  # each column holds what it held
        assert rotated or torch.equal(rows.diff(dim=1).remainder(61), torch.ones(3, 19).long())
        assert len(rows.unique()) == 60
    ranks = [list(islice(data.train_batches(NET, Shard(rank, 2), 5), 10)) for rank in range(2)]
    for number, (one, other) in enumerate(zip(*ranks, strict=True)):
        assert torch.equal(torch.cat([one.tokens, other.tokens]), pieces[5 + number].tokens)


@given(st.integers(2, 700), st.integers(1, 7), st.integers(1, 4))
def test_evaluation_predicts_each_token_but_the_first_once(tokens: int, columns: int, ranks: int) -> None:
    data = Numbers(tokens, 1, 5, columns)
    targets = [p.targets.flatten() for rank in range(ranks) for p in data.batches("eval", NET, Shard(rank, ranks))]
    assert torch.equal(torch.cat(targets).sort().values, torch.arange(1, tokens))


def test_the_help_texts_share_no_paragraph_between_splits() -> None:
    data = PythonDocs()
    end = data.vocabulary["<eos>"]
    paragraphs = {}
    for split, ids in data.splits.items():
        words = " ".join(data.vocabulary.lookup_tokens(ids.tolist()))
        assert (ids == end).sum() > 50
        paragraphs[split] = set(words.split(" <eos> "))
    long = {split: {p for p in parts if p.count(" ") > 12 and "<unk>" not in p} for split, parts in paragraphs.items()}
    assert not long["train"] & long["eval"]
    assert not long["train"] & long["test"]


def test_impossible_columns_are_refused() -> None:
    with pytest.raises(ConfigError, match="length 0"):
        Numbers(10, 1, 0)


def test_the_chain_has_the_entropy_that_it_says() -> None:
    """Counted from the text itself, of which so many words differ by a hundredth or less."""
    data = MarkovChain(words=4, tokens=200_000)
    text = data.split("train") - 2
    counts = torch.zeros(4, 4, dtype=torch.float64).index_put_((text[:-1], text[1:]), torch.tensor(1.0).double(), True)
    chances = counts / counts.sum(1, keepdim=True)
    counted = -(counts / counts.sum() * chances.log()).sum()
    assert abs(float(counted) - data.entropy) < 0.01
    assert len(data.split("eval")) == len(data.split("test")) == 20_000


def test_a_chain_is_another_text_for_another_seed_and_the_same_chain() -> None:
    one, other = MarkovChain(tokens=1000, seed=1), MarkovChain(tokens=1000, seed=2)
    assert one.entropy == other.entropy
    assert not torch.equal(one.split("train"), other.split("train"))
    assert torch.equal(one.split("train"), MarkovChain(tokens=1000, seed=1).split("train"))
