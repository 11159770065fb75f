"""Cells of a table: numbers and their notations, missing values, categories; and constant columns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlref.data.supervised.table_columns import (
    NA_VALUES,
    ColumnType,
    Rules,
    column_statistics,
    encode,
    infer_type,
    is_missing,
    mean_and_std,
    na_text,
    parse_column,
    parse_number,
    sorted_values,
)
from dlref.data.supervised.table_files import Column
from dlref.errors import DataError

POINT, COMMA = Rules(), Rules(decimal="comma")


def column(*cells: str, name: str = "x") -> Column:
    lines = np.arange(2, len(cells) + 2)
    return Column(name, np.array(cells, dtype=object), Path("a.csv"), lines, "line")


def numbers(cells: Column, rules: Rules = POINT) -> np.ndarray:
    return parse_column(cells, "numeric", is_missing(cells, rules, "numeric"), rules, "data.", "name it")


CONSTANT: dict[str, Any] = {
    "repeated": np.full(60, 0.1),
    "many": np.full(100_003, 0.1),
    "zeros": np.zeros(5),
    "one row": np.array([7.3]),
    "roundings": np.array([0.3, 0.1 + 0.2, 0.3]),
    "large roundings": np.array([1e8, np.nextafter(1e8, 2e8)]),
    "in single precision": np.array([0.3, np.float32(0.1) + np.float32(0.2)], dtype=np.float32),
    "below what a computer divides by": np.array([0.0, 5e-324]),
}
VARIED: dict[str, Any] = {
    "a large offset": 1e8 + np.arange(50) * 1e-3,
    "a large offset, many rows": 1e8 + (np.arange(100_000) % 2) * 1e-5,
    "tiny": np.arange(50) * 1e-12,
    "squares that vanish": 1e-200 * np.arange(50),
    "squares beyond all numbers": 1e200 * np.arange(50),
    "one row differs": np.array([0.1] * 9999 + [0.1001]),
    "single precision with an offset": np.array([1.7e9 + 1000 * i for i in range(50)], dtype=np.float32),
}


@pytest.mark.parametrize("values", CONSTANT.values(), ids=CONSTANT)
def test_numbers_that_differ_only_by_rounding_errors_have_a_standard_deviation_of_1(values: np.ndarray) -> None:
    mean, std = mean_and_std(values.astype(np.float64), values.dtype)
    assert std == 1.0
    assert abs(0.2 - mean) / std < 1e9


@pytest.mark.parametrize("values", VARIED.values(), ids=VARIED)
def test_real_variation_of_any_size_is_standardized(values: np.ndarray) -> None:
    wide = values.astype(np.float64)
    mean, std = mean_and_std(wide, values.dtype)
    inputs = (wide - mean) / std
    assert np.abs(inputs.mean()) < 1e-2  # of the last digit of the mean
    assert inputs.std() == pytest.approx(1, abs=1e-3)


def test_mean_and_std_of_usual_numbers_equal_numpys_bit_for_bit() -> None:
    values = np.random.default_rng(0).normal(3, 2, 1001)
    assert mean_and_std(values, values.dtype) == (float(values.mean()), float(values.std()))


@pytest.mark.parametrize(("cell", "value"), [("3", 3.0), ("-1e3", -1000.0), (".5", 0.5), ("1e999", float("inf"))])
def test_the_decimal_separator_is_a_point_or_a_comma(cell: str, value: float) -> None:
    assert parse_number(cell, "point") == value
    assert parse_number(cell.replace(".", ","), "comma") == value


@pytest.mark.parametrize("cell", ["", "nan", "1_000", "12_34", "0x10", "1,5", "1 234", "one"])
def test_other_texts_are_not_numbers_even_where_python_or_a_spreadsheet_accepts_them(cell: str) -> None:
    assert parse_number(cell, "point") is None


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("3,14", "set data.decimal=comma to read decimal commas, or write numbers like 1234.5, or name it"),
        ("-0,5", "data.decimal=comma"),
        ("1.234,5", "data.decimal=comma"),
        ("1,234", "decimal commas, or write numbers like 1234, or"),
        ("1,234.5", "without thousands separators"),
        ("1,234,567", "without thousands separators"),
        ("1 234", "without thousands separators"),
        ("1\u00a0234,5", "without thousands separators"),
        ("1\u202f234", "without thousands separators"),
        ("1'234", "without thousands separators"),
        ("1_000", "without thousands separators"),
        ("5 %", "or units"),
        ("$5", "or units"),
        ("−3", "numbers like -1234.5"),
    ],
)
def test_numbers_in_another_notation_are_refused_with_the_right_notation(cell: str, said: str) -> None:
    """Also where every cell is one, so that none is parsed as a number."""
    for cells in (column(cell), column("1", cell, "2"), column("red", cell)):
        assert infer_type(cells, Rules(), []) == "numeric"
        with pytest.raises(DataError, match=r"a.csv, line") as refused:
            numbers(cells)
        assert f"'{cell}'".replace("\u00a0", " ").replace("\u202f", " ") in str(refused.value)
        assert said in str(refused.value)


@pytest.mark.parametrize("cell", ["1.1.0", "12.03.2024", "2024-01-05", "10:30", "a,b", "A1", "12_34", "1,2,3", "-x"])
def test_other_texts_are_categories(cell: str) -> None:
    assert infer_type(column(cell, "b"), Rules(), []) == "categorical"


def test_with_decimal_commas_a_point_is_refused() -> None:
    assert numbers(column("3,14", "2", "-1,5e3"), COMMA).tolist() == [3.14, 2.0, -1500.0]
    for cell, said in (("3.5", "data.decimal=point"), ("1.234,5", "like -1234,5, without thousands separators")):
        with pytest.raises(DataError, match="line 3") as refused:
            numbers(column("1,5", cell), COMMA)
        assert said in str(refused.value)


@pytest.mark.parametrize("cell", ["", *NA_VALUES, "na", "NULL", "nan"])
@pytest.mark.parametrize("column_type", ["numeric", "categorical", "boolean"])
def test_cells_of_na_values_are_missing_in_every_type_of_column(cell: str, column_type: ColumnType) -> None:
    assert is_missing(column("1", cell, "2"), Rules(), column_type).tolist() == [False, True, False]
    assert is_missing(column("1", cell, "2"), Rules(na_values=[]), column_type).tolist() == [False, not cell, False]


def test_a_number_of_na_values_matches_every_notation_of_it_in_a_numeric_column() -> None:
    rules = Rules(na_values=["-999", "0.1"])
    cells = np.array([1.0, -999.0, np.nan, 0.1])
    for found in (
        column("1", "-999", "", ".10"),
        column("1.0", "-999.0", "-9.99e2", "0.1"),
        column()._replace(cells=cells),
        column()._replace(cells=cells.astype(np.float32)),
        column()._replace(cells=np.int16([1, -999, -999, -999])),
    ):
        assert is_missing(found, rules, "numeric").tolist() == [False, True, True, True]
        np.testing.assert_equal(numbers(found, rules), [1, np.nan, np.nan, np.nan])
    for half in ("-0.5", "-0,5"):
        assert is_missing(column("1,5", "-0,50"), Rules("comma", na_values=[half]), "numeric").tolist() == [False, True]
    assert not is_missing(column("-999 m", "x999", "1e999"), rules, "numeric").any()


@pytest.mark.parametrize("column_type", ["categorical", "boolean"])
def test_na_values_are_compared_as_text_in_categorical_and_boolean_columns(column_type: ColumnType) -> None:
    rules = Rules(na_values=["999", "0.1"])
    assert is_missing(column("0999", "999", "9.99e2", ".1", "0.10", "0.1", "999.0"), rules, column_type).tolist() == [
        *(False, True, False, False, False, True, True)
    ]
    for cells in (np.array([1.0, 999.0, np.nan]), np.float32([1, 0.1, np.nan]), np.int16([1, 999, 999])):
        assert is_missing(column()._replace(cells=cells), rules, column_type).tolist() == [False, True, True]


def test_a_number_of_na_values_beyond_the_range_of_a_column_matches_nothing_in_it() -> None:
    for cells, codes in (
        (np.float16([np.inf, 0.0, 1.0]), ["100000", "-1e9", "1e-9"]),
        (np.uint8([0, 255, 1]), ["-1", "256"]),
    ):
        assert not is_missing(column()._replace(cells=cells), Rules(na_values=codes), "numeric").any()
    with pytest.raises(DataError, match=r"inf in column 'x' is not a finite number"):
        numbers(Column("x", np.float16([1, np.inf]), Path("a.npz"), np.arange(2), "index"), Rules(na_values=["100000"]))
    read = column()._replace(cells=np.float16([np.inf, 1]))
    assert is_missing(read, Rules(na_values=["inf"]), "numeric").tolist() == [True, False]


def test_a_number_of_na_values_has_one_text_however_it_is_given() -> None:
    codes = [-999, -999.0, np.float32(-999), "-999", " -999.0", "\u200b-999"]
    assert {na_text(value) for value in codes} == {"-999"}
    assert [na_text(text) for text in ("0999", "1.10", "9.99e2", "NA", "1.0.0")] == [
        "0999",
        "1.10",
        "9.99e2",
        "NA",
        "1.0.0",
    ]


def test_a_column_that_mixes_numbers_and_text_is_refused_with_an_example_of_each() -> None:
    for cells, line in ((("1", "2", "S"), 4), (("S", "M", "42"), 2)):
        assert infer_type(column(*cells), Rules(), []) == "numeric"
        with pytest.raises(DataError, match=f"line {line}: '.' in column 'x' is not a number, as '[14]2?' is; name it"):
            numbers(column(*cells))
        assert infer_type(column(*cells), Rules(), ["x"]) == "categorical"


def test_a_missing_value_is_the_mean_or_the_most_frequent_category() -> None:
    age, color = column("1", "", "3", "8", name="age"), column("red", "blue", "NA", "red", name="color")
    rules = Rules(missing="mean")
    missing = is_missing(color, rules, "categorical")
    values = {"age": numbers(age, rules), "color": parse_column(color, "categorical", missing, rules, "data.", "")}
    learned = [column_statistics(age, values["age"]), column_statistics(color, values["color"])]
    assert learned[0]["mean"] == 4.0
    assert learned[1]["most_frequent"] == "red"
    inputs = encode(values, learned, rules, "a.csv")
    assert inputs[1, 0] == 0
    assert inputs[:, 1:].tolist() == [[0, 1], [1, 0], [0, 1], [0, 1]]
    dropped = encode(values, learned, Rules(missing="drop"), "a.csv")
    assert np.isnan(dropped).any(axis=1).tolist() == [False, True, True, False]


def test_values_are_sorted_as_numbers_if_all_are_numbers() -> None:
    assert sorted_values(["10", "2", "1.10", "1.1", "01", "1"]) == ["01", "1", "1.1", "1.10", "2", "10"]
    assert sorted_values(["b", "10", "2"]) == ["10", "2", "b"]
