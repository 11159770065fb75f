"""What the cells of a table mean (numbers, categories, labels or missing values), and how a network reads them.

A column is described by plain values, which are learned from the training rows and kept in checkpoints: name, mean and
standard deviation of numbers; name, values and the most frequent one of categories.
"""

import logging
import math
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from dlref.data.supervised.table_files import Column, shown, stripped
from dlref.errors import DataError

logger = logging.getLogger("dlref")
Holds = Literal["numbers", "categories", "labels"]
Missing = Literal["mean", "drop"]
Decimal = Literal["point", "comma"]
NA_VALUES = ("NA", "N/A", "#N/A", "<NA>", "NaN", "-NaN", "null", "?", "-")
MOST_VALUES = 1000  # of a column of categories, each of which becomes an input of its own
MOST_SHOWN = 6  # of them in a summary
YES, NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}
WHOLE = re.compile(r"(-?\d+)\.0")
LABELS = "write 0 or 1, true or false, yes or no"

# Numbers that `float` does not read, as spreadsheets write them.
GROUPED = re.compile(r"\d{1,3}([,.'’_ \u00a0\u202f])\d{3}(?:\1\d{3})*(?:[.,]\d+)?")
WITH_COMMA = re.compile(r"(?:\d+|\d{1,3}(?:\.\d{3})+)?,\d+(?:e[+-]?\d+)?", re.IGNORECASE)
WITH_UNIT = re.compile(r"[€$£¥]\s*\d[\d.,'’\s]*|\d[\d.,'’\s]*[%€$£¥]")


class Rules(NamedTuple):
    """How the cells of a table are read, in training and in prediction."""

    decimal: Decimal = "point"
    missing: Missing | None = None
    na_values: Sequence[str] = NA_VALUES


def code(value: str | float) -> str:
    """One of `na_values` as text: a number that is whole has no `.0`, however it was given."""
    text = stripped(str(value))
    return found[1] if (found := WHOLE.fullmatch(text)) else text


def absent(column: Column, rules: Rules, held: Holds) -> np.ndarray:
    """Which cells hold no value [N]: empty ones, NaN, and those of `na_values`.

    Text is compared without regard to case. In a column of numbers a code is also compared by its value, so that -999 finds
    -9.99e2; of categories and labels it is the text alone, of which 0999 is another than 999.
    """
    written = {text.lower() for text in rules.na_values}
    is_text = column.cells.dtype.kind in "OU"
    read = [number(text, decimal) for text in written for decimal in ("point", rules.decimal)]
    numbers = {value for value in read if value is not None and held == "numbers"}
    if held == "numbers" and not is_text:
        return np.isnan(column.cells) | np.isin(column.cells, stored(numbers, column.cells.dtype))
    texts, none = column.texts().tolist(), {"", *written}
    found = {
        text
        for text in set(texts)
        if code(text).lower() in none or (numbers and number(text, rules.decimal) in numbers)
    }
    gone = np.array([text in found for text in texts], dtype=bool) if found else np.zeros(len(texts), dtype=bool)
    return gone if is_text else gone | np.isnan(column.cells)


def stored(numbers: Collection[float], dtype: np.dtype) -> np.ndarray:
    """The numbers as a column of this type holds them, without those beyond its range: 0.1 in single precision is another
    number than in double."""
    exact = np.array(list(numbers), dtype=np.float64)
    if dtype.kind != "f":
        return exact
    with np.errstate(over="ignore", under="ignore"):
        rounded = exact.astype(dtype)
    return rounded[(np.isinf(rounded) == np.isinf(exact)) & ((rounded == 0) == (exact == 0))]


def or_a_value(column: Column, gone: np.ndarray) -> str:
    """The end of a sentence about missing cells [N] bool: how to read the first that is neither empty nor NaN as a value."""
    texts = (text for text in column.texts()[gone].tolist() if text.lower() not in ("", "nan", "-nan"))
    found = next(texts, None)
    return (
        ""
        if found is None
        else f"; if '{shown(found)}' is a value, leave it out of data.na_values, as in data.na_values=[]"
    )


def require_values(column: Column, gone: np.ndarray, remedy: str) -> None:
    """Raise DataError for the first missing cell."""
    if gone.any():
        row, others = int(gone.argmax()), int(gone.sum()) - 1
        more = f" (and {others:,} more in this column)" if others else ""
        raise DataError(
            f"{column.at(row)}: '{shown(column.cells[row])}' in column '{shown(column.name)}' is a missing value{more}; "
            f"{remedy}"
        )


def number(cell: str, decimal: Decimal) -> float | None:
    """The number that a text is; None for any other text, NaN, and what only Python takes for a number."""
    if decimal == "comma":
        cell = "" if "." in cell else cell.replace(",", ".", 1)
    try:
        value = float(cell)
    except ValueError:
        return None
    return None if "_" in cell or math.isnan(value) else value


def spelled_otherwise(cell: str, rules: Rules, settings: str) -> str | None:
    """What to do about a number that `rules` do not read, or None where the text is no number.

    `settings` stands before the name of a setting: `data.` in training, `--` in `dlref predict`.
    """
    plain = cell.lstrip("+-−").strip()
    comma, grouped = bool(WITH_COMMA.fullmatch(plain)), bool(GROUPED.fullmatch(plain))
    if rules.decimal == "comma":
        if number(cell, "point") is not None:
            return f"set {settings}decimal=point to read decimal points, or write numbers like 1234,5"
        comma = False
    if comma:
        return f"set {settings}decimal=comma to read decimal commas, or write numbers like {'1234' if grouped else '1234.5'}"
    if grouped or WITH_UNIT.fullmatch(plain) or (cell.startswith("−") and number(plain, rules.decimal) is not None):
        example = "-1234.5" if rules.decimal == "point" else "-1234,5"
        return f"write numbers like {example}, without separators of thousands or units"
    return None


def holds(column: Column, rules: Rules, categories: Collection[str]) -> Holds:
    """Whether an input column holds numbers or categories.

    Text of an NPZ file is text; that of a CSV file is numbers where any cell is one.
    """
    if column.name in categories or column.cells.dtype.kind == "U":
        return "categories"
    if column.cells.dtype.kind != "O":
        return "numbers"
    texts = set(column.cells[~absent(column, rules, "categories")].tolist())
    some = any(number(text, rules.decimal) is not None or spelled_otherwise(text, rules, "") for text in texts)
    return "numbers" if some else "categories"


def values_of(column: Column, held: Holds, gone: np.ndarray, rules: Rules, settings: str, remedy: str) -> np.ndarray:
    """The cells as float64, NaN where they are missing (`gone`, [N] bool), or as text of dtype object, empty there.

    Raises DataError for the first cell that is none of what the column holds; `remedy` says what else it may be.
    """
    if held == "categories":
        return np.where(gone, "", column.texts())
    if held == "labels":
        said = [text.lower() for text in column.texts()]
        unknown = [row for row, text in enumerate(said) if text not in YES | NO and not gone[row]]
        if unknown:
            cell = shown(column.texts()[unknown[0]])
            raise DataError(f"{column.at(unknown[0])}: '{cell}' in column '{shown(column.name)}' is no label; {LABELS}")
        return np.where(gone, np.nan, [float(text in YES) for text in said])
    if column.cells.dtype.kind in "OU":
        values = parsed(column, gone, rules, settings, remedy)
    else:
        with np.errstate(over="ignore"):
            values = np.where(gone, np.nan, column.cells.astype(np.float64))
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        row = infinite[0]
        raise DataError(
            f"{column.at(row)}: {values[row]} in column '{shown(column.name)}' is not a finite number; correct it"
        )
    return values


def parsed(column: Column, gone: np.ndarray, rules: Rules, settings: str, remedy: str) -> np.ndarray:
    texts = column.texts().tolist()
    known = {text: number(text, rules.decimal) for text in set(texts)}  # each different one once
    found = [known[text] for text in texts]
    wrong = [] if None not in known.values() else [i for i, n in enumerate(found) if n is None and not gone[i]]
    if not wrong:
        return np.where(gone, np.nan, np.array(found, dtype=np.float64))
    ways = ((row, way) for row in wrong if (way := spelled_otherwise(texts[row], rules, settings)))
    row, way = next(ways, (wrong[0], ""))
    numeric = next((text for text, none in zip(texts, gone, strict=True) if known[text] is not None and not none), None)
    contrast = f", as '{shown(numeric)}' is" if numeric is not None and not way else ""
    said = "; ".join(filter(None, [f"is not a number{contrast}", ", or ".join(filter(None, [way, remedy]))]))
    raise DataError(f"{column.at(row)}: '{shown(texts[row])}' in column '{shown(column.name)}' {said}")


def ordered(values: Iterable[str]) -> list[str]:
    """Different texts, in numerical order if all are numbers, else in alphabetical order."""
    different = set(values)
    numbers = {value: number(value, "point") for value in different}
    if None in numbers.values():
        return sorted(different)
    return sorted(different, key=lambda value: (numbers[value], value))


def learn(column: Column, values: np.ndarray) -> dict[str, Any]:
    """The description of a column by its values in the training rows."""
    numeric = values.dtype.kind == "f"
    present = values[~np.isnan(values)] if numeric else values[values != ""]
    said = f"{column.path}: column '{shown(column.name)}'"
    if not len(present):
        raise DataError(f"{said} has no value in any training row; leave it out by data.inputs=[…]")
    if numeric:
        if np.abs(present).max() > sys.float_info.max / 4:
            raise DataError(f"{said} holds numbers too large for their mean and deviation; write them in other units")
        mean, deviation = standard(present, column.cells.dtype)
        return {"name": column.name, "mean": mean, "deviation": deviation}
    counts = Counter(present.tolist())
    if len(counts) > MOST_VALUES:
        raise DataError(f"{said} has {len(counts)} different texts; leave it out by data.inputs=[…]")
    different = ordered(counts)
    return {"name": column.name, "values": different, "most_frequent": max(different, key=counts.__getitem__)}


def standard(values: np.ndarray, stored: np.dtype) -> tuple[float, float]:
    """Mean and standard deviation, the latter 1 where the numbers differ by no more than a few roundings.

    Roundings are relative to the size of the numbers and to the type that they are stored in: 0.1 repeated has a computed
    standard deviation of 1e-17, 1e8 + i / 1000 a real one. Sums are taken in units of a power of two, which changes no
    digit, so that no square is too small or too large.
    """
    largest = float(np.abs(values).max())
    exponent = math.frexp(largest)[1]
    scaled = np.ldexp(values, -exponent)
    mean, std = (math.ldexp(float(value), exponent) for value in (scaled.mean(), scaled.std()))
    rounding = float(np.finfo(stored if stored.kind == "f" else np.float64).eps) * largest
    constant = np.ptp(values) <= 4 * rounding or std < sys.float_info.min
    return mean, 1.0 if constant else std


def encode(
    columns: Mapping[str, np.ndarray], learned: Sequence[Mapping[str, Any]], rules: Rules, where: object
) -> np.ndarray:
    """Columns as a network reads them, float32 [N, D]: numbers of mean 0 and deviation 1, an input for each category.

    A category that training did not have is none of them. A missing value is the mean or the most frequent category, or,
    where rows with one are dropped, NaN, as all that is computed from it.
    """
    parts = []
    for about in learned:
        name, values = about["name"], columns[about["name"]]
        if "values" in about:
            places = {value: i for i, value in enumerate(about["values"])}
            gone, filled = values == "", np.where(values == "", about["most_frequent"], values)
            found = np.array([places.get(value, -1) for value in filled.tolist()])
            if (found < 0).any():
                logger.warning(
                    "%s: %d of %d cells in column '%s' are none of the categories that the training rows have, such as '%s'",
                    where, (found < 0).sum(), len(found), shown(name), shown(filled[found < 0][0]),
                )  # fmt: skip
            part = (found[:, None] == np.arange(len(places))).astype(np.float32)
        else:
            gone = np.isnan(values)
            with np.errstate(over="ignore"):
                part = ((values - about["mean"]) / about["deviation"]).astype(np.float32)[:, None]
            if np.isinf(part).any():
                far = values[np.isinf(part[:, 0])][0]
                raise DataError(f"{where}: {far} in column '{shown(name)}' is too far from the training rows")
            part[gone] = 0.0
        if rules.missing != "mean":
            part[gone] = np.nan
        parts.append(part)
    return np.concatenate(parts, axis=1)


def summary(name: str, values: np.ndarray, held: Holds, missed: int) -> str:
    """What a column holds, in a line: range of numbers, categories, and how many values are missing."""
    present = values[~np.isnan(values)] if values.dtype.kind == "f" else values[values != ""]
    if held == "labels":
        said = f"yes in {int(present.sum()):,} rows, no in {int((1 - present).sum()):,}"
    elif held == "numbers":
        low, high = float(present.min()), float(present.max())
        digits = 6 if f"{low:.6g}" != f"{high:.6g}" else 15
        said = f"numbers from {low:.{digits}g} to {high:.{digits}g}" if low < high else f"always {low:.6g}"
    else:
        counts = Counter(present.tolist())
        listed = [f"{shown(value)} ({counts[value]:,})" for value in ordered(counts)]
        more = ", …" if len(listed) > MOST_SHOWN else ""
        said = f"{len(listed):,} categories: {', '.join(listed[:MOST_SHOWN])}{more}"
    return f"{shown(name)}: {said}" + (f"; {missed:,} missing" if missed else "")
