"""Streams of a text miss nothing."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from dlref.data.text.markov_chain import MarkovChain
from dlref.data.text.python_docs import PythonDocs
from dlref.data.text.token_streams import LanguageModelText, Order
from dlref.data.text.tokenizer import Vocabulary
from dlref.errors import ConfigError, DataError
from dlref.interfaces import FixedContext, Shard, TokenBatch
from dlref.models.transformer_lm import TransformerLM
from dlref.objectives.language_modelling import LanguageModelling

NET = nn.Linear(1, 1)


@dataclass(eq=False)
class Numbers(LanguageModelText):
    """A text in which every token is its own position."""

    size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.vocabulary = Vocabulary(["<unk>"])
        self.splits = {"train": torch.arange(self.size), "eval": torch.arange(self.size)}


class Windowed(nn.Linear, FixedContext):
    """A network with a fixed context."""

    def __init__(self, context: int) -> None:
        super().__init__(1, 1)
        self.context = context


def same(one: TokenBatch, other: TokenBatch) -> bool:
    return one.reset_state == other.reset_state and all(map(torch.equal, one[:2], other[:2]))


@given(st.integers(2, 200), st.integers(1, 7), st.integers(1, 9), st.integers(1, 5))
def test_training_streams_continue_where_the_batch_before_ended(
    tokens: int, size: int, length: int, streams: int
) -> None:
    data = Numbers(tokens, batch_size=size, seq_len=length, eval_batch_size=streams)
    if (tokens - 1) // size < 1:
        with pytest.raises(DataError, match="too short"):
            next(data.train_batches(NET, Shard(), 0))
        return
    batches: list[TokenBatch] = list(islice(data.train_batches(NET, Shard(), 0), int(data.batches_per_epoch)))
    assert [batch.reset_state for batch in batches] == [True] + [False] * (len(batches) - 1)
    rows = torch.cat([batch.tokens for batch in batches], dim=1)
    assert torch.equal(rows, torch.arange((tokens - 1) // size * size).view(size, -1))
    assert all(torch.equal(batch.targets, batch.tokens + 1) for batch in batches)
    assert next(data.train_batches(NET, Shard(), len(batches))).reset_state


@pytest.mark.parametrize("order", ["shifted", "rotated"])
def test_streams_of_other_epochs_start_elsewhere_and_miss_nothing(order: Order) -> None:
    data = Numbers(62, batch_size=3, seq_len=4, order=order)  # three streams of 20 tokens
    batches: list[TokenBatch] = list(islice(data.train_batches(NET, Shard(), 0), 15))
    assert [batch.reset_state for batch in batches] == [number % 5 == 0 for number in range(15)]
    assert all(torch.equal(batch.targets, batch.tokens + 1) for batch in batches)
    epochs = [torch.cat([batch.tokens for batch in batches[start : start + 5]], dim=1) for start in (0, 5, 10)]
    assert torch.equal(epochs[0], torch.arange(60).view(3, 20))
    assert len({tuple(rows[:, 0].tolist()) for rows in epochs}) == 3
    for rows in epochs[1:]:
        rotated = order == "rotated"
        assert rotated == torch.equal(rows.sort(1).values, epochs[0])  # each stream has the tokens that it had
        assert rotated or torch.equal(rows.diff(dim=1).remainder(61), torch.ones(3, 19).long())
        assert len(rows.unique()) == 60
    ranks = [list(islice(data.train_batches(NET, Shard(rank, 2), 5), 10)) for rank in range(2)]
    for number, (one, other) in enumerate(zip(*ranks, strict=True)):
        assert torch.equal(torch.cat([one.tokens, other.tokens]), batches[5 + number].tokens)


@given(st.integers(2, 700), st.integers(1, 7), st.integers(1, 4))
def test_evaluation_predicts_each_token_but_the_first_once(tokens: int, streams: int, ranks: int) -> None:
    data = Numbers(tokens, batch_size=1, seq_len=5, eval_batch_size=streams)
    targets = [p.targets.flatten() for rank in range(ranks) for p in data.batches("eval", NET, Shard(rank, ranks))]
    assert torch.equal(torch.cat(targets).sort().values, torch.arange(1, tokens))


@given(st.integers(2, 130), st.integers(1, 5), st.integers(1, 9))
def test_shuffled_batches_have_one_shape_and_an_epoch_reads_nearly_all_and_nothing_twice(
    tokens: int, size: int, length: int
) -> None:
    data = Numbers(tokens, batch_size=size, seq_len=length, order="shuffled")
    stream = data.train_batches(NET, Shard(), 0)
    if tokens // length - 1 < size:
        with pytest.raises(
            DataError, match=f"train split is too short: {tokens} tokens are .* batches of {size}; lower"
        ):
            next(stream)
        return
    for _ in range(3):
        batches: list[TokenBatch] = list(islice(stream, int(data.batches_per_epoch)))
        for batch in batches:
            assert batch.reset_state
            assert batch.tokens.shape == (size, length)
            assert torch.equal(batch.tokens, batch.tokens[:, :1] + torch.arange(length))
            assert torch.equal(batch.targets, batch.tokens + 1)
            assert batch.targets.max() < tokens
        read = torch.cat([batch.tokens.flatten() for batch in batches])
        assert len(read.unique()) == len(read) == data.units_per_batch(1) * len(batches)
        assert tokens - len(read) < (size + 1) * length


def test_shuffled_epochs_are_cut_and_ordered_by_the_seed_and_start_at_any_batch() -> None:
    settings: dict[str, Any] = {"batch_size": 3, "seq_len": 5, "order": "shuffled"}
    data = Numbers(100, **settings)  # six batches an epoch
    batches: list[TokenBatch] = list(islice(data.train_batches(NET, Shard(), 0), 30))
    epochs = [torch.cat([batch.tokens[:, 0] for batch in batches[start : start + 6]]) for start in range(0, 30, 6)]
    assert len({int(starts[0]) % 5 for starts in epochs}) > 2  # the random offset
    assert len({tuple((starts // 5).tolist()) for starts in epochs}) == 5
    assert not any(torch.equal(starts, starts.sort().values) for starts in epochs)
    again, other = (Numbers(100, seed=seed, **settings) for seed in (0, 1))
    assert all(map(same, again.train_batches(NET, Shard(), 0), batches))
    assert not any(map(same, other.train_batches(NET, Shard(), 0), batches))
    for first in (1, 5, 6, 17):
        assert [*map(same, data.train_batches(NET, Shard(), first), batches[first:])] == [True] * (30 - first)
    ranks = [data.train_batches(NET, Shard(rank, 2), 4) for rank in range(2)]
    for whole, one, two in zip(batches[4:], *ranks, strict=False):
        assert same(TokenBatch(torch.cat([one.tokens, two.tokens]), torch.cat([one.targets, two.targets]), True), whole)


@given(
    st.integers(2, 150),
    st.integers(1, 12),
    st.none() | st.integers(1, 15),
    st.integers(1, 3),
    st.sampled_from([16_384, 10]),
)
@example(5, 3, None, 1, 16_384)  # one token more than the first window predicts, fewer than a stride
def test_windows_predict_each_token_but_the_first_once_with_enough_context(
    tokens: int, context: int, stride: int | None, ranks: int, together: int
) -> None:
    data, net = Numbers(tokens, batch_size=1, seq_len=15, eval_stride=stride), Windowed(context)
    new = min(stride or context, context)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dlref.data.text.token_streams.EVAL_WINDOWS", together)
        batches: list[TokenBatch] = [b for rank in range(ranks) for b in data.batches("eval", net, Shard(rank, ranks))]
    assert torch.equal(torch.cat([batch.targets.flatten() for batch in batches]).sort().values, torch.arange(1, tokens))
    assert sum(len(batch.tokens) for batch in batches) == 1 + max(0, -(-(tokens - 1 - context) // new))  # no more
    for batch in batches:
        assert batch.reset_state
        assert batch.tokens.shape[1] == min(context, tokens - 1)
        assert batch.tokens.numel() <= max(together, context)
        assert torch.equal(batch.tokens, batch.tokens[:, :1] + torch.arange(batch.tokens.shape[1]))
        assert torch.equal(batch.targets, batch.tokens[:, -batch.targets.shape[1] :] + 1)
        seen = batch.targets - batch.tokens[:, :1]
        assert (seen > context - new).all() or batch.tokens[0, 0] == 0


@pytest.mark.parametrize("stride", [None, 1, 3])
def test_the_nll_of_windows_is_that_of_each_token_given_the_window_before_it(stride: int | None) -> None:
    torch.manual_seed(0)
    net = TransformerLM(vocab_size=7, context=5, width=8, layers=2, heads=2, zero_init=False).double()
    text, data = torch.randint(7, (24,)), Numbers(24, batch_size=1, seq_len=5, eval_stride=stride)
    data.splits["eval"] = text
    nats, new = 0.0, stride or 5
    for position in range(1, 24):
        start = min(-(-max(position - 5, 0) // new) * new, 23 - 5)
        logits = net(text[None, start:position])[0][0, -1].detach()
        nats -= float(logits.log_softmax(0)[text[position]])
    objective = LanguageModelling(net).eval()
    for ranks in (1, 2):
        totals = [objective(p)["nll"] for r in range(ranks) for p in data.batches("eval", net, Shard(r, ranks))]
        assert sum(total.count for total in totals) == 23
        assert sum(total.total.item() for total in totals) == pytest.approx(nats, rel=1e-12)


def test_no_paragraph_of_the_help_texts_is_in_two_splits() -> None:
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


def test_impossible_streams_are_refused() -> None:
    with pytest.raises(ConfigError, match="seq_len 0"):
        Numbers(10, seq_len=0)
    with pytest.raises(ConfigError, match="eval_stride 0"):
        Numbers(10, seq_len=5, eval_stride=0)
    with pytest.raises(ConfigError, match=r"eval_stride is 6; it takes at most data\.seq_len, which is 5"):
        Numbers(10, seq_len=5, eval_stride=6)


def test_a_markov_chain_has_the_entropy_that_it_states() -> None:
    """Estimated from the text, which is long enough to be within a hundredth."""
    data = MarkovChain(words=4, tokens=200_000)
    text = data.split("train") - 2
    counts = torch.zeros(4, 4, dtype=torch.float64).index_put_((text[:-1], text[1:]), torch.tensor(1.0).double(), True)
    transitions = counts / counts.sum(1, keepdim=True)
    estimate = -(counts / counts.sum() * transitions.log()).sum()
    assert abs(float(estimate) - data.entropy) < 0.01
    assert len(data.split("eval")) == len(data.split("test")) == 20_000


def test_another_seed_is_another_text_of_the_same_chain() -> None:
    one, other = MarkovChain(tokens=1000, seed=1), MarkovChain(tokens=1000, seed=2)
    assert one.entropy == other.entropy
    assert not torch.equal(one.split("train"), other.split("train"))
    assert torch.equal(one.split("train"), MarkovChain(tokens=1000, seed=1).split("train"))
