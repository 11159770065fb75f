"""What counts as compared, and when docs/crosschecks.md may be written."""

import sys

import numpy as np
import pytest

from tests.crosschecks.rows import Row, all_rows, largest_difference, not_measured

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("values", [[], [NAN, NAN], [INF, NAN]], ids=["empty", "not numbers", "infinite"])
def test_nothing_finite_is_not_compared(values: list[float]) -> None:
    with pytest.raises(AssertionError, match="no finite number"):
        largest_difference(np.array(values), np.array(values), atol=1.0, rtol=0.0)


def test_the_largest_difference_is_that_of_finite_numbers() -> None:
    assert largest_difference([1.0, NAN, INF, 8.0], [1.5, NAN, INF, 8.0], 0.25, 0.125) == (0.5, 1.25)


@pytest.mark.parametrize(("ours", "theirs"), [([1.0, NAN], [1.0, 2.0]), ([1.0, INF], [1.0, -INF]), ([1.0], [[1.0]])])
def test_values_that_are_not_alike(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(AssertionError):
        largest_difference(ours, theirs, atol=INF, rtol=0.0)


def test_a_row_that_was_not_measured_is_named() -> None:
    rows = [Row(what, "scipy", "", "", 0) for what in ("values", "draws")]
    assert not_measured(rows, ["draws", "values"]) is None
    sentence = not_measured(rows, ["values"])
    assert sentence is not None
    assert "1 of its rows were not measured: draws;" in sentence


@pytest.mark.slow
def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.delitem(sys.modules, "tests.crosschecks.test_against_nltk", raising=False)
    with pytest.raises(pytest.fail.Exception, match="'nltk'"):
        all_rows()
