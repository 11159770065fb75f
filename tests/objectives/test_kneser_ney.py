"""Kneser-Ney smoothing equals a calculation by hand, and is normalized for any text."""

import itertools
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import dlref
from dlref.cli.main import main
from dlref.errors import ConfigError
from dlref.models.mlp import MLP
from dlref.models.ngram import NGram
from dlref.models.recurrent_lm import RecurrentLM
from dlref.objectives.kneser_ney import Discounts, KneserNey


def fitted(text: list[int], words: int, order: int, discounts: Discounts, length: int = 99) -> NGram:
    net = NGram(words, order).double()
    KneserNey(net, discounts).fit(torch.tensor(text).split(length))
    return net


def test_a_bigram_model_of_six_words_by_hand() -> None:
    """The text is a b a c a b; word d does not occur."""
    # Pairs: a b twice; b a, a c, c a once. So n1 = 3, n2 = 1.
    d_pairs = Fraction(3, 3 + 2 * 1)
    # Continuation counts: a occurs after b and c; b and c after a only. So n1 = 2, n2 = 1, and 4 in all.
    d_words = Fraction(2, 2 + 2 * 1)
    uniform = 3 * d_words / 4 / 4  # the discounts of three words are spread over four
    unigrams = [(2 - d_words) / 4 + uniform, (1 - d_words) / 4 + uniform, (1 - d_words) / 4 + uniform, uniform]
    after_a = [2 * d_pairs / 3 * p for p in unigrams]  # b and c follow, three times
    after_a[1] += (2 - d_pairs) / 3
    after_a[2] += (1 - d_pairs) / 3
    after_b = [d_pairs * p for p in unigrams]  # a follows, once
    after_b[0] += 1 - d_pairs
    assert after_a == [Fraction(k, 240) for k in (45, 133, 53, 9)]
    net = fitted([0, 1, 0, 2, 0, 1], 4, 2, "one")
    expected = torch.tensor([[float(p) for p in after] for after in (after_a, after_b, after_b, unigrams)])
    torch.testing.assert_close(net(torch.tensor([[0], [1], [2], [3]]))[0][:, 0].exp(), expected.double())


def test_without_a_context_words_are_counted() -> None:
    """Of 0 0 0 1 1 2: all n1 to n3 are 1, so Y = 1/3 and D is 1/3, 1 and 3; word 3 does not occur."""
    discounted = Fraction(1, 3) + 1 + 3
    expected = [discounted / 6 / 4 + count / 6 for count in (0, 2 - 1, 1 - Fraction(1, 3), 0)]
    net = fitted([0, 1, 0, 2, 0, 1], 4, 1, "three")
    torch.testing.assert_close(net.unigrams, torch.tensor([float(p) for p in expected]).double())


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=60),
    st.integers(1, 4),
    st.sampled_from(["one", "three"]),
    st.integers(1, 9),
)
@example([1] * 9, 3, "three", 2)
@example([0, 1, 2, 3], 4, "one", 1)
def test_every_word_has_a_probability_after_any_context_and_they_sum_to_1(
    text: list[int], order: int, discounts: Discounts, length: int
) -> None:
    net = fitted(text, 5, order, discounts, length)
    probabilities = net(torch.tensor(list(itertools.product(range(5), repeat=3))))[0].exp()
    assert (probabilities > 0).all()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(125, 3).double())
    whole = fitted(text, 5, order, discounts)
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), whole.buffers(), strict=True))  # however it was cut


def test_single_precision_is_enough() -> None:
    text = (50 * torch.rand(1, 5000, generator=torch.Generator().manual_seed(0)) ** 3).long()
    single, double = NGram(50, 4), NGram(50, 4).double()
    for net in (single, double):
        KneserNey(net).fit(text[0].split(256))
    torch.testing.assert_close(single(text)[0].double(), double(text)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("net", [MLP(4, 4, [3]), RecurrentLM(4, 3)], ids=["mlp", "recurrent"])
def test_another_network_is_refused(net: torch.nn.Module) -> None:
    with pytest.raises(ConfigError, match="choose model=ngram"):
        KneserNey(net)


def test_a_text_shorter_than_the_order_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"network\.order is 4"):
        fitted([0, 1, 2], 4, 4, "one")


def test_a_run_is_fitted_evaluated_loaded_and_resumed(
    train: Callable[..., tuple[int, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train("model=ngram", "data=markov_chain", "network.order=3", f"run_dir={run}")[0] == 0
    said = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert main(["evaluate", str(run), "--split", "eval"]) == 0
    assert json.loads((run / "evaluation.json").read_text())["metrics"]["loss"] == said[-1]["loss"]
    net = dlref.load(run)
    assert isinstance(net, NGram)
    assert len(net.keys) > 30
    code, said_again = train(f"resume={run}")
    assert code == 0
    assert "is finished at step 1" in said_again
