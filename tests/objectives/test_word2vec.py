"""word2vec: windows, subsampling and negative samples, and that the fused loss equals the plain one."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.interfaces import TokenBatch
from dlref.models.mlp import MLP
from dlref.models.word_vectors import WordEmbeddings
from dlref.objectives import word2vec
from dlref.objectives.fused.embedding_rows import embed
from dlref.objectives.fused.negative_sampling import BandedNegativeSampling
from dlref.objectives.ppmi_svd import PPMISVD
from dlref.objectives.word2vec import CBOW, SkipGram, Word2Vec
from dlref.training import gradient_norm

END = 1


def made(kind: type[Word2Vec] = SkipGram, sparse: bool = True, **typed: Any) -> Word2Vec:
    torch.manual_seed(0)
    net = WordEmbeddings(9, 4, sparse).double()
    nn.init.normal_(net.output.weight)
    plain = {"window": 2, "dynamic_window": False, "subsample": None, "block_size": 4, "shared_negatives": 3}
    return kind(net, **(plain | typed))


def segments(text: Tensor, length: int) -> list[TokenBatch]:
    return [TokenBatch(text[:, s : s + length], text, s == 0) for s in range(0, text.shape[1], length)]


def pairs_of(objective: Word2Vec, batches: list[TokenBatch]) -> Counter[tuple[int, int]]:
    """How often each word is paired with each context word."""
    found: Counter[tuple[int, int]] = Counter()
    for batch in batches:
        windows = objective.windows(batch)
        reach = windows.pairs.shape[2]
        context = windows.span.unfold(1, reach, 1)
        words = windows.words[..., None].expand_as(context)
        found.update(zip(words[windows.pairs].tolist(), context[windows.pairs].tolist(), strict=True))
    return found


TEXTS = st.integers(1, 3).flatmap(
    lambda rows: st.lists(st.lists(st.integers(0, 8), min_size=rows, max_size=rows), min_size=1, max_size=25)
)


@settings(max_examples=40)
@given(TEXTS, st.integers(1, 9), st.integers(1, 3))
def test_every_pair_of_a_sentence_occurs_once_however_the_text_is_batched(
    columns: list[list[int]], length: int, window: int
) -> None:
    """Word 0 is left out and word 1 ends a sentence; the words appended complete the last windows."""
    text = torch.tensor(columns).T
    objective = made(window=window)
    objective.fit([text.flatten()])
    after = torch.full((len(text), 1), END).expand(-1, 1)
    behind = torch.cat([text, after, torch.arange(2, 2 + window).expand(len(text), -1)], 1)
    objective.counts += 1  # those of the words behind too
    found = pairs_of(objective, segments(behind, length))
    wanted: Counter[tuple[int, int]] = Counter()
    for row in text.tolist():
        sentence: list[int] = []
        for word in [*row, END]:
            if word == END:
                for i, one in enumerate(sentence):
                    wanted.update((one, other) for j, other in enumerate(sentence) if 0 < abs(i - j) <= window)
                sentence = []
            elif word:
                sentence.append(word)
    assert found == wanted


def test_words_like_any_other_and_windows_across_sentences() -> None:
    text = torch.tensor([[0, 1, 2, 0, 0]])
    objective = made(unk_id=None, eos_id=None, window=1)
    objective.fit([text.flatten()])
    assert pairs_of(objective, [TokenBatch(text, text, True)]) == Counter(
        [(0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2), (0, 0)]
    )


@pytest.mark.parametrize("window", [1, 5])
def test_windows_are_the_same_with_and_without_a_table(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = torch.cartesian_prod(torch.arange(window + 1), torch.arange(window + 1)).unbind(1)
    tables = []
    for most in (window, window - 1):
        monkeypatch.setattr(word2vec, "LARGEST_TABULATED", most)
        tables.append(word2vec.tabulated_window_mask(before, after, window))
    wanted = [
        [abs(d) > 0 and -b <= d <= a for d in range(-window, window + 1)] for b, a in zip(before, after, strict=True)
    ]
    assert [table.tolist() for table in tables] == [wanted, wanted]


@pytest.mark.parametrize("min_window", [1, 3, 5])
def test_window_sizes_are_uniform_from_the_smallest_to_the_largest(min_window: int) -> None:
    text = torch.arange(6000).remainder(7)[None] + 2
    objective = made(window=5, dynamic_window=True, min_window=min_window)
    objective.fit([text.flatten()])
    windows = objective.windows(TokenBatch(text, text, True))
    reach = windows.pairs[windows.counts[..., 0] > 0][:, 6:].sum(1)  # after each word; before the first stands nobody
    sizes = Counter(reach.tolist())
    assert sorted(sizes) == list(range(min_window, 6))
    assert all(times == pytest.approx(len(reach) / len(sizes), rel=0.15) for times in sizes.values())


def test_training_and_evaluation_carry_their_own_words() -> None:
    text = torch.arange(2, 9)[None]
    objective = made()
    objective.fit([text.flatten()])
    one = segments(text, 3)
    alone = [objective.windows(batch) for batch in one]
    objective.eval()
    for training, batch in ((True, one[0]), (False, one[0]), (True, one[1]), (False, one[1])):
        objective.train(training)
        assert torch.equal(objective.windows(batch).pairs, alone[0 if batch is one[0] else 1].pairs)


def test_frequent_words_are_subsampled_as_by_word2vec_c() -> None:
    text = torch.cat([torch.full((1, 9000), 2), torch.full((1, 1000), 3), torch.full((1, 200), END)], 1)
    objective = made(subsample=1e-2, window=1)
    objective.fit([text.flatten()])
    torch.manual_seed(0)
    kept = sum(
        torch.bincount(objective.windows(TokenBatch(text, text, True)).words.flatten(), minlength=9) for _ in range(20)
    )
    for word, frequency in ((2, 0.9), (3, 0.1)):
        wanted = (1e-2 / frequency) ** 0.5 + 1e-2 / frequency  # word2vec.c; of a text without its sentence ends
        assert kept[word] / 20 / (10_000 * frequency) == pytest.approx(wanted, rel=0.1)


def test_negatives_follow_the_power_of_frequency() -> None:
    text = torch.tensor([[2] * 16 + [3] * 1 + [0] * 50])
    objective = made(shared_negatives=64)
    objective.fit([text.flatten()])
    drawn = torch.bincount(objective.sample_negatives(2000).flatten(), minlength=9)
    assert drawn[2] / drawn[3] == pytest.approx(8, rel=0.05)  # 16^0.75
    assert drawn.sum() == drawn[2] + drawn[3]
    objective.ns_exponent, objective.tables = 0.0, None
    assert objective.sample_negatives(200).unique().tolist() == [2, 3]  # alike, and never what does not occur


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_gradients_of_one_word_are_summed(ids: list[int]) -> None:
    table, where = nn.Embedding(7, 3, sparse=True).double(), torch.tensor(ids)
    rows = torch.randn(len(ids), 3, dtype=torch.float64)
    found = embed(table, where)
    torch.testing.assert_close(found, table.weight[where])
    found.backward(rows)
    (values,) = gradient_norm.values([table.weight])
    assert table.weight.grad is not None
    torch.testing.assert_close(table.weight.grad.to_dense(), torch.zeros(7, 3).double().index_add(0, where, rows))
    assert table.weight.grad._indices()[0].tolist() == sorted(set(ids))
    assert len(values) == len(set(ids))


@pytest.mark.parametrize("kind", [SkipGram, CBOW])
def test_sparse_rows_train_as_dense_ones(kind: type[Word2Vec]) -> None:
    text = torch.randint(0, 9, (2, 30), generator=torch.Generator().manual_seed(1))
    trained = []
    for sparse in (True, False):
        objective = made(kind, sparse)
        objective.fit([text.flatten()])
        optimizer = torch.optim.SGD(objective.parameters(), lr=0.5)
        for batch in segments(text, 10):
            optimizer.zero_grad()
            torch.as_tensor(objective(batch)["loss"].total).backward()
            assert objective.net.input.weight.grad.is_sparse == sparse
            optimizer.step()
        trained.append(torch.cat([objective.net.input.weight, objective.net.output.weight]))
    torch.testing.assert_close(*trained)


def test_the_full_softmax_is_cross_entropy_of_each_pair() -> None:
    text = torch.tensor([[2, 5, 3, 8, 2, 2, 7, 4, 6, 3, 3]])
    batch = TokenBatch(text, text, True)
    words = text[0].tolist()
    near = [[words[j] for j in range(max(i - 2, 0), i + 3) if j != i] for i in range(len(words) - 2)]
    plain_losses: dict[type[Word2Vec], Callable[[Any], Tensor]] = {
        SkipGram: lambda net: sum(
            F.cross_entropy(net.output.weight @ net.input.weight[words[i]], torch.tensor(word))
            for i, context in enumerate(near)
            for word in context
        ),
        CBOW: lambda net: sum(
            F.cross_entropy(net.output.weight @ net.input.weight[context].mean(0), torch.tensor(words[i]))
            for i, context in enumerate(near)
        ),
    }
    for kind, plain in plain_losses.items():
        objective = made(kind, sparse=False, negatives=None)
        objective.fit([batch.tokens.flatten()])
        torch.testing.assert_close(objective(batch)["loss"].total, plain(objective.net))


def test_impossible_settings_and_other_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"network\.sparse=false"):
        made(negatives=None)
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"window": 0}, "window is 0"),
        ({"negatives": 0}, "negatives 0"),
        ({"eos_id": 9}, "eos_id 9"),
        ({"min_window": 3}, "min_window is 3.*which is 2"),
    )
    for typed, said in refused:
        with pytest.raises(ConfigError, match=said):
            made(**typed)
    for kind in (SkipGram, PPMISVD):
        with pytest.raises(ConfigError, match="choose model="):
            kind(MLP(2, 2, [3]))


@pytest.mark.parametrize("logit", [-40.0, 0.0, 12.0, 40.0])
def test_the_loss_of_negatives_is_exact_where_their_probability_rounds_to_0(logit: float) -> None:
    """In float32: a pair with logit 0, and a negative with this logit and weight 2."""
    outputs = torch.tensor([[[0.0], [logit]]])
    loss = BandedNegativeSampling.apply(
        torch.ones(1, 1, 1), outputs, torch.ones(1, 1, 1, dtype=torch.bool), torch.full((1, 1, 1), 2.0)
    )
    expected = F.softplus(torch.tensor(0.0)) + 2 * F.softplus(torch.tensor(logit))
    torch.testing.assert_close(loss, expected)
