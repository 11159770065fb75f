"""Tests in which an independent library computes the same thing; each is a row of docs/crosschecks.md.

make crosschecks    runs them and writes the table of that page anew
"""

import importlib.metadata
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.crosschecks.rows import BEGIN, END, PAGE, Row, all_rows, largest_difference, not_measured

Agree = Callable[..., None]
measured: dict[str, dict[str, Any]] = {}  # by the first column of the row; in the process that pytest was started in


@pytest.fixture
def agree(request: pytest.FixtureRequest) -> Iterator[Agree]:
    """`agree(ours, theirs, atol)`: assert that two tensors, arrays or numbers of one shape differ by at most `atol`, or by
    at most `rtol` times the library's largest absolute value, and record the largest difference."""
    row: Row = request.function.row
    worst: dict[str, float] = {}

    def compare(ours: Any, theirs: Any, atol: float = 0.0, rtol: float = 0.0) -> None:
        for key, value in zip(("difference", "allowed"), largest_difference(ours, theirs, atol, rtol), strict=True):
            worst[key] = max(worst.get(key, 0.0), value)

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


def writes_page(config: pytest.Config) -> bool:
    """Whether this process is to write the page; the workers of pytest-xdist are not."""
    return bool(config.getoption("--write-page", False)) and not hasattr(config, "workerinput")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse to begin where a library is not installed: its rows would be skipped."""
    if writes_page(session.config):
        try:
            all_rows()
        except pytest.fail.Exception as missing:
            raise pytest.UsageError(missing.msg) from None


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the page if that was asked for, all tests have passed, and every row was measured."""
    if not writes_page(session.config) or exitstatus != 0:
        return
    if refusal := not_measured(all_rows(), measured):
        session.config.get_terminal_writer().line(f"\n{refusal}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return
    before, _, after = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    text = before + BEGIN + table(list(measured.values())) + END + after.partition(END)[2]
    PAGE.write_text(text, encoding="utf-8")
