"""Columns of text miss nothing."""

from itertools import islice

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from dlref.data.text.markov_chain import MarkovChain
from dlref.data.text.python_docs import PythonDocs
from dlref.data.text.token_streams import LanguageModelText, Order, Piece
from dlref.data.text.tokenizer import Vocabulary
from dlref.errors import ConfigError, DataError
from dlref.interfaces import FixedContext, Shard
from dlref.models.transformer_lm import TransformerLM
from dlref.objectives.language_modelling import LanguageModelling

NET = nn.Linear(1, 1)


class Numbers(LanguageModelText):
    def __init__(
        self,
        tokens: int,
        batch_size: int,
        length: int,
        eval_columns: int = 1,
        order: Order = "fixed",
        eval_stride: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, length, eval_columns, order, seed, eval_stride)
        self.vocabulary = Vocabulary(["<unk>"])
        self.splits = {"train": torch.arange(tokens), "eval": torch.arange(tokens)}


class Windowed(nn.Linear, FixedContext):
    """Sees so many tokens at most."""

    def __init__(self, context: int) -> None:
        super().__init__(1, 1)
        self.context = context


def same(one: Piece, other: Piece) -> bool:
    return one.begins == other.begins and all(map(torch.equal, one[:2], other[:2]))


@given(st.integers(2, 200), st.integers(1, 7), st.integers(1, 9), st.integers(1, 5))
def test_training_columns_go_on_where_they_ended(tokens: int, size: int, length: int, columns: int) -> None:
    data = Numbers(tokens, size, length, columns)
    if (tokens - 1) // size < 1:
        with pytest.raises(DataError, match="too short"):
            next(data.train_batches(NET, Shard(), 0))
        return
    pieces: list[Piece] = list(islice(data.train_batches(NET, Shard(), 0), int(data.batches_per_epoch)))
    assert [piece.begins for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    rows = torch.cat([piece.tokens for piece in pieces], dim=1)
    assert torch.equal(rows, torch.arange((tokens - 1) // size * size).view(size, -1))
    assert all(torch.equal(piece.targets, piece.tokens + 1) for piece in pieces)
    assert next(data.train_batches(NET, Shard(), len(pieces))).begins


@pytest.mark.parametrize("order", ["shifted", "rotated"])
def test_other_epochs_cut_the_text_at_other_places_and_miss_nothing(order: Order) -> None:
    data = Numbers(62, 3, 4, order=order)  # three columns of 20 tokens
    pieces: list[Piece] = list(islice(data.train_batches(NET, Shard(), 0), 15))
    assert [piece.begins for piece in pieces] == [number % 5 == 0 for number in range(15)]
    assert all(torch.equal(piece.targets, piece.tokens + 1) for piece in pieces)
    epochs = [torch.cat([piece.tokens for piece in pieces[at : at + 5]], dim=1) for at in (0, 5, 10)]
    assert torch.equal(epochs[0], torch.arange(60).view(3, 20))
    assert len({tuple(rows[:, 0].tolist()) for rows in epochs}) == 3
    for rows in epochs[1:]:
        rotated = order == "rotated"
        assert rotated == torch.equal(rows.sort(1).values, epochs[0])  # each column holds what it held
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


@given(st.integers(2, 130), st.integers(1, 5), st.integers(1, 9))
def test_shuffled_batches_have_one_shape_and_an_epoch_reads_nearly_all_and_nothing_twice(
    tokens: int, size: int, length: int
) -> None:
    data = Numbers(tokens, size, length, order="shuffled")
    batches = data.train_batches(NET, Shard(), 0)
    if tokens // length - 1 < size:
        with pytest.raises(
            DataError, match=f"train split is too short: {tokens} tokens are .* batches of {size}; lower"
        ):
            next(batches)
        return
    for _ in range(3):
        pieces: list[Piece] = list(islice(batches, int(data.batches_per_epoch)))
        for piece in pieces:
            assert piece.begins
            assert piece.tokens.shape == (size, length)
            assert torch.equal(piece.tokens, piece.tokens[:, :1] + torch.arange(length))
            assert torch.equal(piece.targets, piece.tokens + 1)
            assert piece.targets.max() < tokens
        read = torch.cat([piece.tokens.flatten() for piece in pieces])
        assert len(read.unique()) == len(read) == data.units_per_batch(1) * len(pieces)
        assert tokens - len(read) < (size + 1) * length


def test_shuffled_epochs_are_cut_and_mixed_anew_by_the_seed_and_begin_anywhere() -> None:
    data = Numbers(100, 3, 5, order="shuffled")  # six batches an epoch
    batches: list[Piece] = list(islice(data.train_batches(NET, Shard(), 0), 30))
    epochs = [torch.cat([batch.tokens[:, 0] for batch in batches[at : at + 6]]) for at in range(0, 30, 6)]
    assert len({int(starts[0]) % 5 for starts in epochs}) > 2  # where the text is cut
    assert len({tuple((starts // 5).tolist()) for starts in epochs}) == 5
    assert not any(torch.equal(starts, starts.sort().values) for starts in epochs)
    again, other = (Numbers(100, 3, 5, order="shuffled", seed=seed) for seed in (0, 1))
    assert all(map(same, again.train_batches(NET, Shard(), 0), batches))
    assert not any(map(same, other.train_batches(NET, Shard(), 0), batches))
    for first in (1, 5, 6, 17):
        assert [*map(same, data.train_batches(NET, Shard(), first), batches[first:])] == [True] * (30 - first)
    ranks = [data.train_batches(NET, Shard(rank, 2), 4) for rank in range(2)]
    for whole, one, two in zip(batches[4:], *ranks, strict=False):
        assert same(Piece(torch.cat([one.tokens, two.tokens]), torch.cat([one.targets, two.targets]), True), whole)


@given(
    st.integers(2, 150),
    st.integers(1, 12),
    st.none() | st.integers(1, 15),
    st.integers(1, 3),
    st.sampled_from([16_384, 10]),
)
@example(5, 3, None, 1, 16_384)  # one token more than the first window predicts, fewer than a stride
def test_windows_predict_each_token_but_the_first_once_with_enough_before_it(
    tokens: int, context: int, stride: int | None, ranks: int, together: int
) -> None:
    data, net = Numbers(tokens, 1, 15, eval_stride=stride), Windowed(context)
    new = min(stride or context, context)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dlref.data.text.token_streams.EVAL_WINDOWS", together)
        pieces: list[Piece] = [p for rank in range(ranks) for p in data.batches("eval", net, Shard(rank, ranks))]
    assert torch.equal(torch.cat([piece.targets.flatten() for piece in pieces]).sort().values, torch.arange(1, tokens))
    assert sum(len(piece.tokens) for piece in pieces) == 1 + max(0, -(-(tokens - 1 - context) // new))  # no more
    for piece in pieces:
        assert piece.begins
        assert piece.tokens.shape[1] == min(context, tokens - 1)
        assert piece.tokens.numel() <= max(together, context)
        assert torch.equal(piece.tokens, piece.tokens[:, :1] + torch.arange(piece.tokens.shape[1]))
        assert torch.equal(piece.targets, piece.tokens[:, -piece.targets.shape[1] :] + 1)
        seen = piece.targets - piece.tokens[:, :1]
        assert (seen > context - new).all() or piece.tokens[0, 0] == 0


@pytest.mark.parametrize("stride", [None, 1, 3])
def test_nats_over_windows_are_those_of_each_token_after_what_its_window_shows(stride: int | None) -> None:
    torch.manual_seed(0)
    net = TransformerLM(vocab_size=7, context=5, width=8, layers=2, heads=2, zero_init=False).double()
    text, data = torch.randint(7, (24,)), Numbers(24, 1, 5, eval_stride=stride)
    data.splits["eval"] = text
    nats, new = 0.0, stride or 5
    for place in range(1, 24):
        start = min(-(-max(place - 5, 0) // new) * new, 23 - 5)
        scores = net(text[None, start:place])[0][0, -1].detach()
        nats -= float(scores.log_softmax(0)[text[place]])
    objective = LanguageModelling(net).eval()
    for ranks in (1, 2):
        totals = [objective(p)["nll"] for r in range(ranks) for p in data.batches("eval", net, Shard(r, ranks))]
        assert sum(total.count for total in totals) == 23
        assert sum(total.total.item() for total in totals) == pytest.approx(nats, rel=1e-12)


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
    with pytest.raises(ConfigError, match="eval_stride 0"):
        Numbers(10, 1, 5, eval_stride=0)
    with pytest.raises(ConfigError, match=r"eval_stride is 6; it takes at most data\.length, which is 5"):
        Numbers(10, 1, 5, eval_stride=6)


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
