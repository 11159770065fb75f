"""The page of promises names the tests that hold them, all of them, and none of these is passed over."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.faults
ROWS = range(1, 30)
PASSED_OVER = {"skip", "skipif", "xfail", "importorskip"}


class Found(NamedTuple):
    """A test function, or a class or variable that pytest collects, as it stands in a file."""

    name: str
    node: ast.stmt
    module: ast.Module

    @property
    def rows(self) -> list[int]:
        """The numbers in its name: `test_fault_02_and_03_…` holds for two rows."""
        numbers = re.match(r"test_fault((_and)?_\d\d)+(?=_|$)", self.name)
        return [int(number) for number in re.findall(r"\d\d", numbers[0])] if numbers else []


def collected() -> Iterator[tuple[Path, Found]]:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        module = ast.parse(path.read_text())
        for node in module.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield path.relative_to(ROOT), Found(node.name, node, module)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                yield path.relative_to(ROOT), Found(node.targets[0].id, node, module)


@functools.cache
def found() -> list[tuple[Path, Found]]:
    return [(path, test) for path, test in collected() if test.name.lower().startswith("test")]


def rows_of_the_page() -> dict[int, list[tuple[str, str]]]:
    """Number of a row -> file and name of each of its tests."""
    rows: dict[int, list[tuple[str, str]]] = {}
    for line in (ROOT / "docs" / "reliability.md").read_text().splitlines():
        number, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if line.startswith("|") and number.isdigit():
            assert int(number) not in rows, f"row {number} is there twice"
            assert len(cells) == 3, line
            assert all(cells), line
            rows[int(number)], path = [], ""
            for name in re.findall(r"`([^`]+)`", cells[-1]):
                path = name if name.endswith(".py") else path
                rows[int(number)] += [] if name.endswith(".py") else [(path, name)]
    return rows


def names(node: ast.AST) -> set[str]:
    """All names and attributes that occur in it."""
    return {
        n.attr if isinstance(n, ast.Attribute) else n.id
        for n in ast.walk(node)
        if isinstance(n, ast.Attribute | ast.Name)
    }


def test_each_of_the_29_rows_has_a_test_that_exists() -> None:
    rows = rows_of_the_page()
    assert sorted(rows) == list(ROWS)
    there = {(str(path), test.name) for path, test in found()}
    for number, tests in rows.items():
        assert tests, f"row {number} names no test"
        assert not set(tests) - there, f"row {number} names tests that do not exist"


def test_each_test_of_a_fault_is_named_in_its_row() -> None:
    rows = rows_of_the_page()
    for path, test in found():
        assert test.rows or not test.name.startswith("test_fault"), f"{test.name} has no number"
        for number in test.rows:
            assert (str(path), test.name) in rows[number], f"name it in row {number} of docs/reliability.md"


def test_no_test_of_a_fault_is_passed_over_and_pytest_finds_all_by_their_mark() -> None:
    for path, test in found():
        if test.rows:
            assert isinstance(test.node, ast.FunctionDef)
            everywhere = [
                n for n in test.module.body if not isinstance(n, ast.FunctionDef | ast.ClassDef | ast.ImportFrom)
            ]
            assert not set.union(names(test.node), *map(names, everywhere)) & PASSED_OVER, f"{path}: {test.name}"
            marks = [*test.node.decorator_list]
            marks += [n for n in everywhere if isinstance(n, ast.Assign) and "pytestmark" in names(n.targets[0])]
            assert any("faults" in names(mark) for mark in marks), f"{path}: mark {test.name} with pytest.mark.faults"
