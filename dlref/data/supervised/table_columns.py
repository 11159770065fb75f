"""The cells of a table (numeric, categorical, boolean or missing), and their encoding as network inputs.

A column is described by plain values, which are computed from the training rows and stored in checkpoints: name, mean and
standard deviation of a numeric column; name, values and most frequent value of a categorical one.
"""

import logging
import math
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from dlref.data.supervised.table_files import Column, short, strip_blank
from dlref.errors import DataError

logger = logging.getLogger("dlref")
ColumnType = Literal["numeric", "categorical", "boolean"]
Missing = Literal["mean", "drop"]
Decimal = Literal["point", "comma"]
NA_VALUES = ("NA", "N/A", "#N/A", "<NA>", "NaN", "-NaN", "null", "?", "-")
MAX_CATEGORIES = 1000  # of a column, each of which becomes an input
SUMMARIZED_CATEGORIES = 6
TRUE, FALSE = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}
INTEGRAL = re.compile(r"(-?\d+)\.0")
BOOLEANS = "write 0 or 1, true or false, yes or no"

# Notations of spreadsheets that `float` does not parse.
GROUPED = re.compile(r"\d{1,3}([,.'’_ \u00a0\u202f])\d{3}(?:\1\d{3})*(?:[.,]\d+)?")
WITH_COMMA = re.compile(r"(?:\d+|\d{1,3}(?:\.\d{3})+)?,\d+(?:e[+-]?\d+)?", re.IGNORECASE)
WITH_UNIT = re.compile(r"[€$£¥]\s*\d[\d.,'’\s]*|\d[\d.,'’\s]*[%€$£¥]")


class Rules(NamedTuple):
    """How the cells of a table are parsed, in training and in prediction."""

    decimal: Decimal = "point"
    missing: Missing | None = None
    na_values: Sequence[str] = NA_VALUES


def na_text(value: str | float) -> str:
    """One of `na_values` as text; an integral number has no `.0`, however it was given."""
    text = strip_blank(str(value))
    return match[1] if (match := INTEGRAL.fullmatch(text)) else text


def is_missing(column: Column, rules: Rules, column_type: ColumnType) -> np.ndarray:
    """Mask [N] of the missing cells: empty ones, NaN, and those of `na_values`.

    Text is compared case-insensitively. In a numeric column `na_values` are also compared as numbers, so that -999 matches
    -9.99e2; in categorical and boolean columns only as text, so that 999 does not match 0999.
    """
    na_texts = {text.lower() for text in rules.na_values}
    is_text = column.cells.dtype.kind in "OU"
    parsed = [parse_number(text, decimal) for text in na_texts for decimal in ("point", rules.decimal)]
    na_numbers = {value for value in parsed if value is not None and column_type == "numeric"}
    if column_type == "numeric" and not is_text:
        return np.isnan(column.cells) | np.isin(column.cells, as_dtype(na_numbers, column.cells.dtype))
    texts, none = column.texts().tolist(), {"", *na_texts}
    missing_texts = {
        text
        for text in set(texts)
        if na_text(text).lower() in none or (na_numbers and parse_number(text, rules.decimal) in na_numbers)
    }
    mask = np.zeros(len(texts), dtype=bool)
    if missing_texts:
        mask = np.array([text in missing_texts for text in texts], dtype=bool)
    return mask if is_text else mask | np.isnan(column.cells)


def as_dtype(numbers: Collection[float], dtype: np.dtype) -> np.ndarray:
    """Numbers rounded to the type of a column, without those beyond its range: 0.1 differs in single and double precision."""
    exact = np.array(list(numbers), dtype=np.float64)
    if dtype.kind != "f":
        return exact
    with np.errstate(over="ignore", under="ignore"):
        rounded = exact.astype(dtype)
    return rounded[(np.isinf(rounded) == np.isinf(exact)) & ((rounded == 0) == (exact == 0))]


def na_values_hint(column: Column, missing: np.ndarray) -> str:
    """End of a message about missing cells (mask [N]): how to read the first that is neither empty nor NaN as a value."""
    texts = (text for text in column.texts()[missing].tolist() if text.lower() not in ("", "nan", "-nan"))
    text = next(texts, None)
    return (
        ""
        if text is None
        else f"; if '{short(text)}' is a value, leave it out of data.na_values, as in data.na_values=[]"
    )


def require_no_missing(column: Column, missing: np.ndarray, remedy: str) -> None:
    """Raise DataError for the first missing cell of a mask [N]."""
    if missing.any():
        row, others = int(missing.argmax()), int(missing.sum()) - 1
        more = f" (and {others:,} more in this column)" if others else ""
        raise DataError(
            f"{column.location(row)}: '{short(column.cells[row])}' in column '{short(column.name)}' is a missing value{more}; "
            f"{remedy}"
        )


def parse_number(cell: str, decimal: Decimal) -> float | None:
    """The number that a text spells; None for other text, for NaN, and for notations that only Python accepts."""
    if decimal == "comma":
        cell = "" if "." in cell else cell.replace(",", ".", 1)
    try:
        value = float(cell)
    except ValueError:
        return None
    return None if "_" in cell or math.isnan(value) else value


def notation_hint(cell: str, rules: Rules, prefix: str) -> str | None:
    """How to write or read a number in a notation that `rules` do not parse; None where the text is not a number.

    `prefix` stands before the names of settings: `data.` in training, `--` in `dlref predict`.
    """
    plain = cell.lstrip("+-−").strip()
    comma, grouped = bool(WITH_COMMA.fullmatch(plain)), bool(GROUPED.fullmatch(plain))
    if rules.decimal == "comma":
        if parse_number(cell, "point") is not None:
            return f"set {prefix}decimal=point to read decimal points, or write numbers like 1234,5"
        comma = False
    if comma:
        return (
            f"set {prefix}decimal=comma to read decimal commas, or write numbers like {'1234' if grouped else '1234.5'}"
        )
    if (
        grouped
        or WITH_UNIT.fullmatch(plain)
        or (cell.startswith("−") and parse_number(plain, rules.decimal) is not None)
    ):
        example = "-1234.5" if rules.decimal == "point" else "-1234,5"
        return f"write numbers like {example}, without thousands separators or units"
    return None


def infer_type(column: Column, rules: Rules, categories: Collection[str]) -> ColumnType:
    """Whether an input column is numeric or categorical; `categories` names columns that are categorical.

    A text array of an NPZ file is categorical; a CSV column is numeric where any cell is a number.
    """
    if column.name in categories or column.cells.dtype.kind == "U":
        return "categorical"
    if column.cells.dtype.kind != "O":
        return "numeric"
    texts = set(column.cells[~is_missing(column, rules, "categorical")].tolist())
    some = any(parse_number(text, rules.decimal) is not None or notation_hint(text, rules, "") for text in texts)
    return "numeric" if some else "categorical"


def parse_column(
    column: Column, column_type: ColumnType, missing: np.ndarray, rules: Rules, prefix: str, remedy: str
) -> np.ndarray:
    """Parsed cells [N]: float64 with NaN where missing, or, of a categorical column, text of dtype object, empty there.

    `missing` is a mask [N]. Raises DataError for the first cell that is not of the column's type; `remedy` ends the message.
    """
    if column_type == "categorical":
        return np.where(missing, "", column.texts())
    if column_type == "boolean":
        texts = [text.lower() for text in column.texts()]
        wrong = [row for row, text in enumerate(texts) if text not in TRUE | FALSE and not missing[row]]
        if wrong:
            cell = short(column.texts()[wrong[0]])
            raise DataError(
                f"{column.location(wrong[0])}: '{cell}' in column '{short(column.name)}' is not a boolean; {BOOLEANS}"
            )
        return np.where(missing, np.nan, [float(text in TRUE) for text in texts])
    if column.cells.dtype.kind in "OU":
        values = parse_numbers(column, missing, rules, prefix, remedy)
    else:
        with np.errstate(over="ignore"):
            values = np.where(missing, np.nan, column.cells.astype(np.float64))
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        row = infinite[0]
        raise DataError(
            f"{column.location(row)}: {values[row]} in column '{short(column.name)}' is not a finite number; correct it"
        )
    return values


def parse_numbers(column: Column, missing: np.ndarray, rules: Rules, prefix: str, remedy: str) -> np.ndarray:
    texts = column.texts().tolist()
    parsed = {text: parse_number(text, rules.decimal) for text in set(texts)}  # each distinct text once
    values = [parsed[text] for text in texts]
    wrong = [] if None not in parsed.values() else [i for i, n in enumerate(values) if n is None and not missing[i]]
    if not wrong:
        return np.where(missing, np.nan, np.array(values, dtype=np.float64))
    hints = ((row, hint) for row in wrong if (hint := notation_hint(texts[row], rules, prefix)))
    row, hint = next(hints, (wrong[0], ""))
    is_number = (text for text, none in zip(texts, missing, strict=True) if parsed[text] is not None and not none)
    example = next(is_number, None)
    contrast = f", as '{short(example)}' is" if example is not None and not hint else ""
    problem = "; ".join(filter(None, [f"is not a number{contrast}", ", or ".join(filter(None, [hint, remedy]))]))
    raise DataError(f"{column.location(row)}: '{short(texts[row])}' in column '{short(column.name)}' {problem}")


def sorted_values(values: Iterable[str]) -> list[str]:
    """The distinct texts, in numerical order if all are numbers, else in alphabetical order."""
    distinct = set(values)
    numbers = {value: parse_number(value, "point") for value in distinct}
    if None in numbers.values():
        return sorted(distinct)
    return sorted(distinct, key=lambda value: (numbers[value], value))


def column_statistics(column: Column, values: np.ndarray) -> dict[str, Any]:
    """The description of a column, computed from its parsed cells in the training rows."""
    numeric = values.dtype.kind == "f"
    present = values[~np.isnan(values)] if numeric else values[values != ""]
    name = f"{column.path}: column '{short(column.name)}'"
    if not len(present):
        raise DataError(f"{name} has no value in any training row; leave it out by data.inputs=[…]")
    if numeric:
        if np.abs(present).max() > sys.float_info.max / 4:
            raise DataError(f"{name} has numbers too large for their mean and standard deviation; change its units")
        mean, std = mean_and_std(present, column.cells.dtype)
        return {"name": column.name, "mean": mean, "std": std}
    counts = Counter(present.tolist())
    if len(counts) > MAX_CATEGORIES:
        raise DataError(
            f"{name} has {len(counts)} categories; it takes up to {MAX_CATEGORIES:,}, so leave it out by data.inputs=[…]"
        )
    categories = sorted_values(counts)
    return {"name": column.name, "values": categories, "most_frequent": max(categories, key=counts.__getitem__)}


def mean_and_std(values: np.ndarray, stored: np.dtype) -> tuple[float, float]:
    """Mean and standard deviation, the latter 1 where the numbers differ only by rounding errors.

    Rounding errors are relative to the largest number and to the stored type: 0.1 repeated has a computed standard
    deviation of 1e-17, 1e8 + i / 1000 a real one. Sums are taken in units of a power of two, which changes no digit and
    avoids overflow and underflow of the squares.
    """
    largest = float(np.abs(values).max())
    exponent = math.frexp(largest)[1]
    scaled = np.ldexp(values, -exponent)
    mean, std = (math.ldexp(float(value), exponent) for value in (scaled.mean(), scaled.std()))
    rounding = float(np.finfo(stored if stored.kind == "f" else np.float64).eps) * largest
    constant = np.ptp(values) <= 4 * rounding or std < sys.float_info.min
    return mean, 1.0 if constant else std


def encode(
    columns: Mapping[str, np.ndarray], descriptions: Sequence[Mapping[str, Any]], rules: Rules, source: object
) -> np.ndarray:
    """Network inputs float32 [N, D]: standardized numbers and one-hot categories.

    A category that is not in the training rows is all zeros. A missing value becomes the mean or the most frequent category;
    NaN where `rules` drop rows with one. `source` names the file in messages.
    """
    parts = []
    for description in descriptions:
        name, values = description["name"], columns[description["name"]]
        if "values" in description:
            index = {value: i for i, value in enumerate(description["values"])}
            missing, filled = values == "", np.where(values == "", description["most_frequent"], values)
            indices = np.array([index.get(value, -1) for value in filled.tolist()])
            if (indices < 0).any():
                logger.warning(
                    "%s: %d of %d cells in column '%s' are categories that the training rows do not have, such as '%s'",
                    source, (indices < 0).sum(), len(indices), short(name), short(filled[indices < 0][0]),
                )  # fmt: skip
            part = (indices[:, None] == np.arange(len(index))).astype(np.float32)
        else:
            missing = np.isnan(values)
            with np.errstate(over="ignore"):
                part = ((values - description["mean"]) / description["std"]).astype(np.float32)[:, None]
            if np.isinf(part).any():
                outlier = values[np.isinf(part[:, 0])][0]
                raise DataError(f"{source}: {outlier} in column '{short(name)}' is too far from the training rows")
            part[missing] = 0.0
        if rules.missing != "mean":
            part[missing] = np.nan
        parts.append(part)
    return np.concatenate(parts, axis=1)


def column_summary(name: str, values: np.ndarray, column_type: ColumnType, missing: int) -> str:
    """One line about a column: its range or its categories, and the number of missing values."""
    present = values[~np.isnan(values)] if values.dtype.kind == "f" else values[values != ""]
    if column_type == "boolean":
        content = f"true in {int(present.sum()):,} rows, false in {int((1 - present).sum()):,}"
    elif column_type == "numeric":
        low, high = float(present.min()), float(present.max())
        digits = 6 if f"{low:.6g}" != f"{high:.6g}" else 15
        content = f"numbers from {low:.{digits}g} to {high:.{digits}g}" if low < high else f"always {low:.6g}"
    else:
        counts = Counter(present.tolist())
        listed = [f"{short(value)} ({counts[value]:,})" for value in sorted_values(counts)]
        more = ", …" if len(listed) > SUMMARIZED_CATEGORIES else ""
        content = f"{len(listed):,} categories: {', '.join(listed[:SUMMARIZED_CATEGORIES])}{more}"
    return f"{short(name)}: {content}" + (f"; {missing:,} missing" if missing else "")
