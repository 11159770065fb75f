"""Tests in which an independent library computes the same thing; each is a row of docs/crosschecks.md.

make crosschecks    runs them and writes the table of that page anew
"""

import importlib.metadata
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.crosschecks.rows import BEGIN, END, PAGE, Row

Agree = Callable[..., None]
measured: dict[str, dict[str, Any]] = {}  # by the first column of the row; in the process that pytest was started in


@pytest.fixture
def agree(request: pytest.FixtureRequest) -> Iterator[Agree]:
    """`agree(ours, theirs, atol)`: assert that two tensors, arrays or numbers of one shape differ by at most `atol`, or by
    at most `rtol` times the library's largest absolute value, and record the largest difference."""
    row: Row = request.function.row
    worst: dict[str, float] = {}

    def compare(ours: Any, theirs: Any, atol: float = 0.0, rtol: float = 0.0) -> None:
        one, other = (np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=float) for x in (ours, theirs))
        assert one.shape == other.shape, f"shapes {one.shape} and {other.shape}"
        assert np.array_equal(np.isnan(one), np.isnan(other)), "not a number in one of them alone"
        finite = np.isfinite(one) & np.isfinite(other)
        assert np.array_equal(one[~finite], other[~finite], equal_nan=True), "infinite in one of them alone"
        difference = float(np.abs(one - other)[finite].max(initial=0.0))
        allowed = atol + rtol * float(np.abs(other)[finite].max(initial=0.0))
        worst["difference"] = max(worst.get("difference", 0.0), difference)
        worst["allowed"] = max(worst.get("allowed", 0.0), allowed)
        assert difference <= allowed, f"they differ by {difference:.3g}, more than {allowed:.3g}"

    yield compare
    assert worst, "nothing was compared"
    request.node.user_properties.append(("crosscheck", json.dumps({**row._asdict(), **worst})))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-page", action="store_true", help="write the table of docs/crosschecks.md")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when != "teardown":
        return
    for name, value in report.user_properties:
        if name == "crosscheck":
            found = json.loads(str(value))
            row = measured.setdefault(found["what"], found)
            for key in ("difference", "allowed"):
                row[key] = max(row[key], found[key])


def table(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown, in the order of the tests."""
    lines = ["| what | library | how it is mapped | largest difference | allowed |", "|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: (row["file"], row["line"])):
        names = (name.strip() for name in row["library"].split(","))
        versions = ", ".join(f"{name} {importlib.metadata.version(name).split('+')[0]}" for name in names)
        numbers = " | ".join(f"{row[key]:.1e}" if row[key] else "0" for key in ("difference", "allowed"))
        lines.append(f"| {row['what']} | {versions} | {row['mapping']} | {numbers} |")
    return "\n".join(lines) + "\n"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the page if that was asked for, and all tests have passed."""
    if (
        session.config.getoption("--write-page", False)
        and exitstatus == 0
        and not hasattr(session.config, "workerinput")
    ):
        before, _, after = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(
            before + BEGIN + table(list(measured.values())) + END + after.partition(END)[2], encoding="utf-8"
        )
