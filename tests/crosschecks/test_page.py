"""docs/crosschecks.md names every cross-check, and nothing else."""

from pathlib import Path

import pytest

from tests.crosschecks.rows import BEGIN, END, PAGE, all_rows


@pytest.mark.slow
def test_the_page_has_a_row_for_each_crosscheck(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--write-page", False):
        pytest.skip("the table is about to be written")
    rows = all_rows()
    assert len({row.what for row in rows}) == len(rows), "two tests have one title"
    assert all(Path(__file__).with_name(row.file).is_file() for row in rows), (
        "the order of a row is that of a decorator"
    )
    table = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    printed = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]]
    assert printed == [row.what for row in rows], "`make crosschecks` writes the table again"
    for row, line in zip(rows, table.splitlines()[2:], strict=True):
        assert f" | {row.mapping} | " in line, f"the mapping of {row.what} has changed"
