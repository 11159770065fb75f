"""Totals and counts add up exactly, however the data are cut."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlref.errors import ConfigError
from dlref.metrics import Mean, Totals, add, plain, read, text_metrics


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=60), st.integers(1, 9))
def test_any_cut_gives_the_mean_of_the_whole(numbers: list[int], size: int) -> None:
    totals: Totals = {}
    for start in range(0, len(numbers), size):
        part = numbers[start : start + size]
        totals = add(totals, {"loss": Mean(torch.tensor(float(sum(part))), len(part))})
    assert totals["loss"].value == sum(numbers) / len(numbers)


def test_a_name_that_one_part_lacks_counts_nothing_there() -> None:
    totals = add({"a": Mean(3.0, 2)}, {"a": Mean(1.0, 2), "b": Mean(5.0, 1)})
    assert {name: mean.value for name, mean in totals.items()} == {"a": 1.0, "b": 5.0}


def test_a_name_that_counted_nothing_is_no_number_and_stays() -> None:
    totals = add({"a": Mean(0.0, 0)}, {"b": Mean(1.0, 1)})
    assert math.isnan(totals["a"].value)


def test_sums_of_what_was_read_stay_exact_where_float32_would_round() -> None:
    totals: Totals = {}
    for _ in range(3):
        totals = add(totals, read({"loss": Mean(torch.tensor(2.0**24 + 2, requires_grad=True), 1)}))
    assert isinstance(totals["loss"].total, float)  # a number, without the history of a tensor
    assert float(totals["loss"].total) == 3 * (2.0**24 + 2)


@pytest.mark.parametrize(
    "value", [torch.tensor([1.0, 2.0]), None, "three", 10**400], ids=["vector", "none", "text", "huge"]
)
def test_a_figure_that_is_no_number_is_named(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^the metric 'b' is "):
        plain({"a": torch.tensor(1.0), "b": value, "c": 2})


def test_perplexity_per_word_and_bits_per_character_by_hand() -> None:
    """6 subwords of probability ½ each are 6 bits, for 4 words of 12 characters in all; and the example in docs/data.md."""
    found = text_metrics(Mean(6 * math.log(2), 6), tokens=6, words=4, characters=12)
    assert found == pytest.approx({"word_perplexity": 2 * 2**0.5, "bits_per_character": 0.5})
    assert text_metrics(Mean(3 * math.log(20), 3), tokens=3, words=2)["word_perplexity"] == pytest.approx(89.4427191)
