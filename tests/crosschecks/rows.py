"""The rows of docs/crosschecks.md: what a test compares with which library."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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
