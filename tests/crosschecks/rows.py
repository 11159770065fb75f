"""The rows of docs/crosschecks.md: what a test compares with which library."""

import importlib
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "crosschecks.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


class Row(NamedTuple):
    """What one test, or several cases of one, compare."""

    what: str
    library: str  # the names of the distributions, separated by commas
    mapping: str
    file: str
    line: int


def crosscheck(what: str, library: str, mapping: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a test: what is compared, with which distributions (`nltk, scipy`), and how weights or data are mapped."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        code = inspect.unwrap(test).__code__  # not that of another decorator, such as torch.no_grad()
        row = Row(what, library, mapping, Path(code.co_filename).name, code.co_firstlineno)
        test.row = row  # type: ignore[attr-defined]
        return pytest.mark.slow(test)

    return decorate


def all_rows() -> list[Row]:
    """The rows of all test modules, in the order of the page. Fails where a library is not installed, and names it."""
    rows: list[Row] = []
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        try:
            module = importlib.import_module(f"tests.crosschecks.{path.stem}")
        except pytest.skip.Exception as skipped:
            pytest.fail(f"{path.name}: {skipped.msg}; install dlref[crosschecks]", pytrace=False)
        rows += [test.row for test in vars(module).values() if isinstance(getattr(test, "row", None), Row)]
    return sorted(rows, key=lambda row: (row.file, row.line))


def not_measured(rows: Iterable[Row], measured: Iterable[str]) -> str | None:
    """A sentence that names the first rows whose titles are not among those `measured`, or None if all are."""
    missing = [row.what for row in rows if row.what not in set(measured)]
    if not missing:
        return None
    names = "; ".join(missing[:3]) + (" …" if missing[3:] else "")
    return f"{PAGE.name} stays as it is, because {len(missing)} of its rows were not measured: {names}; run all of them"


def largest_difference(ours: Any, theirs: Any, atol: float, rtol: float) -> tuple[float, float]:
    """The largest absolute difference of two tensors, arrays or numbers, and the largest that is allowed.

    Fails where shapes differ, where one alone is infinite or not a number, and where no number is finite.
    """
    one, other = (np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=float) for x in (ours, theirs))
    assert one.shape == other.shape, f"shapes {one.shape} and {other.shape}"
    assert np.array_equal(np.isnan(one), np.isnan(other)), "not a number in one of them alone"
    finite = np.isfinite(one) & np.isfinite(other)
    assert np.array_equal(one[~finite], other[~finite], equal_nan=True), "infinite in one of them alone"
    assert finite.any(), f"no finite number among those of shape {one.shape}"
    one, other = one[finite], other[finite]
    difference, allowed = np.abs(one - other).max(), atol + rtol * np.abs(other).max()
    assert difference <= allowed, f"they differ by {difference:.3g}, more than {allowed:.3g}"
    return float(difference), float(allowed)
