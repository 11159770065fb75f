"""Tables with named columns: a data set of their rows, and prediction for the rows of other files."""

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dlref.data import generator
from dlref.data.supervised.in_memory import InMemory
from dlref.data.supervised.table_columns import (
    NA_VALUES,
    ColumnType,
    Decimal,
    Missing,
    Rules,
    column_statistics,
    column_summary,
    encode,
    infer_type,
    is_missing,
    na_text,
    na_values_hint,
    parse_column,
    require_no_missing,
    sorted_values,
)
from dlref.data.supervised.table_files import Column, read_table, short
from dlref.errors import ConfigError, DataError
from dlref.interfaces import HasSummary, HeldOut, NamedTargets

Task = Literal["regression", "classification", "multilabel"]
TARGET_TYPE: dict[Task, ColumnType] = {
    "regression": "numeric",
    "classification": "categorical",
    "multilabel": "boolean",
}
SUMMARIZED_COLUMNS = 20
OTHER_INPUTS = ", or choose others by data.inputs=[…]"
PLAIN_NAME = re.compile(r"[^\W\d]\w*", re.ASCII)
logger = logging.getLogger("dlref")


class Table(InMemory, NamedTargets, HeldOut, HasSummary):
    """Rows of a CSV or NPZ file, split at random by `seed`; `targets` names the columns to predict from the others.

    `task` is `regression` (numeric targets), `classification` (one categorical target) or `multilabel` (boolean targets;
    one of them is binary classification). The features are all other columns, or those that `inputs` names. Numeric columns
    are standardized by mean and standard deviation of the training rows. Columns without numbers, and those that
    `categories` names, are one-hot encoded. `test_file` holds the test rows.

    A missing value (an empty cell, or one of `na_values`) is an error, unless `missing` is `drop`, which drops its row, or
    `mean`, which fills in the mean of the training rows, or their most frequent category; a row without a target is dropped.
    `decimal=comma` reads numbers such as 3,14.
    """

    split_settings = ("seed", "eval_share", "test_share", "test_file", "missing", "na_values")

    def __init__(
        self,
        file: Path,
        targets: Sequence[str],
        task: Task,
        inputs: Sequence[str] | None = None,
        categories: Sequence[str] = (),
        missing: Missing | None = None,
        na_values: Sequence[str | float] = NA_VALUES,
        decimal: Decimal = "point",
        test_file: Path | None = None,
        eval_share: float = 0.1,
        test_share: float = 0.1,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        if not targets or (task == "classification" and len(targets) > 1):
            raise ConfigError(
                f"data.targets is {list(targets)}; it takes one column, or several for regression or multilabel"
            )
        if twice := [name for name, count in Counter([*(inputs or []), *targets]).items() if count > 1]:
            raise ConfigError(f"data.inputs and data.targets name '{short(twice[0])}' twice; name each column once")
        for name, share in (("eval", eval_share), ("test", test_share)):
            if not 0 <= share < 1:
                raise ConfigError(f"data.{name}_share is {share}; it takes a fraction from 0 to below 1")
        self.task: Task = task
        self.rules = Rules(decimal, missing, [na_text(value) for value in na_values])
        path = Path(os.path.expanduser(file))
        columns = read_table(
            path, lambda names: [*(inputs or [n for n in names if n not in targets]), *targets], OTHER_INPUTS
        )
        self.inputs, self.targets = [name for name in columns if name not in targets], list(targets)
        if not self.inputs:
            raise DataError(f"{path} has no column besides those of data.targets; it takes one or more to predict from")
        if unknown := [name for name in categories if name not in self.inputs]:
            raise ConfigError(
                f"data.categories names '{short(unknown[0])}', which is not among the inputs; these are "
                f"{', '.join(map(short, self.inputs[:20]))}"
            )
        self.column_types: dict[str, ColumnType] = {
            name: infer_type(columns[name], self.rules, categories) for name in self.inputs
        }
        self.column_types |= dict.fromkeys(targets, TARGET_TYPE[task])
        masks = missing_masks(columns, self.column_types, self.rules)
        require_usable(columns, targets, masks)
        kept, kept_masks = drop_rows(columns, targets, self.rules, masks)
        values = self.parse(kept, kept_masks)
        parts = split_rows(len(values[targets[0]]), eval_share, 0.0 if test_file else test_share, seed, path)
        if task == "classification":
            parts = with_every_class(parts, kept[targets[0]], values[targets[0]])
        self.input_columns = [column_statistics(kept[name], values[name][parts[0]]) for name in self.inputs]
        self.target_columns: list[dict[str, Any]] = [{"name": name} for name in targets]
        if task == "regression":
            self.target_columns = [column_statistics(kept[name], values[name][parts[0]]) for name in targets]
        self.classes = list(targets)
        if task == "classification":
            self.classes = self.target_columns[0]["values"] = sorted_values(values[targets[0]])
        self.splits = {
            split: self.encode({name: cells[part] for name, cells in values.items()}, path)
            for split, part in zip(("train", "eval", "test"), parts, strict=True)
        }
        if test_file:
            self.splits["test"] = self.read_test_file(Path(os.path.expanduser(test_file)))
        self.summary_lines = self.summarize(values, masks)

    def summarize(self, values: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]) -> list[str]:
        """One line per column about its values in the rows that are used and its missing values in the file."""
        by_name = {
            name: column_summary(name, values[name], self.column_types[name], int(mask.sum()))
            for name, mask in masks.items()
        }
        lines = [by_name[name] for name in self.inputs]
        if len(lines) > SUMMARIZED_COLUMNS:
            lines[SUMMARIZED_COLUMNS:] = [f"and {len(lines) - SUMMARIZED_COLUMNS:,} more inputs"]
        lines += [f"target {by_name[name]}" for name in self.targets]
        rows, used = len(masks[self.targets[0]]), len(values[self.targets[0]])
        if rows > used:
            lines.append(f"{rows - used:,} of {rows:,} rows are dropped for a missing value")
        return lines

    def parse(self, columns: Mapping[str, Column], masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The parsed cells of the columns, as `parse_column` returns them."""
        values = {}
        for name, column in columns.items():
            remedy = f"name the column in data.categories=[{as_typed(name)}] if it holds categories"
            if name not in self.inputs:
                remedy = "set data.task=classification if the column holds classes"
            values[name] = parse_column(column, self.column_types[name], masks[name], self.rules, "data.", remedy)
        return values

    def read_test_file(self, path: Path) -> tuple[Tensor, Tensor]:
        columns = read_table(path, lambda _: list(self.column_types), OTHER_INPUTS)
        masks = missing_masks(columns, self.column_types, self.rules)
        kept, kept_masks = drop_rows(columns, self.targets, self.rules, masks)
        values = self.parse(kept, kept_masks)
        rows, used = (len(table[self.targets[0]].cells) for table in (columns, kept))
        if rows > used:
            logger.info("%s: %s of %s rows are dropped for a missing value", path, f"{rows - used:,}", f"{rows:,}")
        if self.task == "classification":
            name = self.targets[0]
            unknown = [row for row, value in enumerate(values[name]) if value not in self.classes]
            if unknown:
                row = unknown[0]
                raise DataError(
                    f"{kept[name].location(row)}: '{short(values[name][row])}' in column '{short(name)}' is not a class of "
                    f"the training rows, which have {', '.join(map(short, self.classes[:20]))}; correct it"
                )
        return self.encode(values, path)

    def encode(self, values: Mapping[str, np.ndarray], path: Path) -> tuple[Tensor, Tensor]:
        """Inputs float32 [N, D], and targets: float32 [N, L], or class indices int64 [N]."""
        inputs = torch.from_numpy(encode(values, self.input_columns, self.rules, path))
        if self.task == "regression":
            return inputs, torch.from_numpy(encode(values, self.target_columns, self.rules, path))
        if self.task == "multilabel":
            labels = [torch.from_numpy(values[name]).float() for name in self.targets]
            return inputs, torch.stack(labels, dim=1)
        index = {value: i for i, value in enumerate(self.classes)}
        return inputs, torch.tensor([index[cell] for cell in values[self.targets[0]].tolist()])

    def summary(self) -> list[str]:
        return self.summary_lines

    def describe(self) -> dict[str, Any]:
        return (
            super().describe()
            | {"reads": "table", "task": self.task, "columns": self.input_columns, "targets": self.target_columns}
            | self.rules._asdict()
        )


def as_typed(name: str) -> str:
    """A column name as an item of a list on the command line."""
    return short(name) if PLAIN_NAME.fullmatch(name) else f'"{short(name)}"'


def missing_masks(
    columns: Mapping[str, Column], column_types: Mapping[str, ColumnType], rules: Rules
) -> dict[str, np.ndarray]:
    """Mask [N] of the missing cells of each column."""
    return {name: is_missing(column, rules, column_types[name]) for name, column in columns.items()}


def require_usable(columns: Mapping[str, Column], targets: Sequence[str], masks: Mapping[str, np.ndarray]) -> None:
    """Raise DataError for a training column without a value, or with values only in rows whose target is missing."""
    present = {name: ~mask for name, mask in masks.items()}
    has_targets = np.all([present[name] for name in targets], axis=0)
    for name, column in columns.items():
        subject, remedy = f"{column.path}: column '{short(name)}'", "leave it out by data.inputs=[…]"
        if not present[name].any():
            remedy = "choose another by data.targets" if name in targets else remedy
            raise DataError(f"{subject} has no value in any row; {remedy}{na_values_hint(column, masks[name])}")
        if has_targets.any() and not present[name][has_targets].any():
            raise DataError(
                f"{subject} has values only in rows whose target is missing; fill in the targets, or {remedy}"
            )


def drop_rows(
    columns: Mapping[str, Column], targets: Sequence[str], rules: Rules, masks: Mapping[str, np.ndarray]
) -> tuple[Mapping[str, Column], Mapping[str, np.ndarray]]:
    """The columns and their masks of missing cells, without the rows that `rules.missing` drops.

    Raises DataError for a missing value where `rules.missing` allows none, and where no row is left.
    """
    if rules.missing is None:
        for name, column in columns.items():
            fill = "" if name in targets else "data.missing=mean to fill in the mean or the most frequent category, or "
            remedy = f"fill it in, or set {fill}data.missing=drop to drop such rows"
            require_no_missing(column, masks[name], remedy + na_values_hint(column, masks[name]))
    dropping = [mask for name, mask in masks.items() if name in targets or rules.missing == "drop"]
    kept = np.flatnonzero(~np.any(dropping, axis=0))
    rows = len(dropping[0])
    if not len(kept):
        path = columns[targets[0]].path
        missing, choice = ("value", "inputs") if rules.missing == "drop" else ("target", "targets")
        raise DataError(
            f"{path} has a missing {missing} in each of its {rows:,} rows, so that data.missing={rules.missing} leaves none; "
            f"fill them in, or choose other columns by data.{choice}=[…]"
        )
    if len(kept) == rows:
        return columns, masks
    return {name: column.take(kept) for name, column in columns.items()}, {name: masks[name][kept] for name in columns}


def split_rows(rows: int, eval_share: float, test_share: float, seed: int, path: Path) -> list[np.ndarray]:
    """Random row indices for train, eval and test: at least one for each fraction above 0."""
    test_rows, eval_rows = (max(1, round(share * rows)) if share else 0 for share in (test_share, eval_share))
    if test_rows + eval_rows >= rows:
        raise DataError(
            f"{path} has {rows} usable rows; {eval_rows} for eval and {test_rows} for test leave none for training: add "
            "rows, or set lower data.eval_share and data.test_share"
        )
    order = torch.randperm(rows, generator=generator(seed)).numpy()
    return np.split(order, [rows - eval_rows - test_rows, rows - test_rows])


def with_every_class(parts: Sequence[np.ndarray], column: Column, labels: np.ndarray) -> list[np.ndarray]:
    """The row indices of the splits, with one row of each class that is missing in train moved there from eval or test."""
    if len(set(labels)) < 2:
        raise DataError(
            f"{column.path}: column '{short(column.name)}' has only the class '{short(labels[0])}'; it takes two or more"
        )
    unseen = set(labels) - set(labels[parts[0]])
    if not unseen:
        return list(parts)
    first = {labels[row]: row for row in reversed(np.concatenate(parts[1:]))}
    moved = np.array([first[label] for label in sorted(unseen)])
    splits = [np.concatenate([parts[0], moved]), *(part[~np.isin(part, moved)] for part in parts[1:])]
    names = ", ".join(f"'{short(label)}'" for label in sorted(unseen)[:5])
    for split, before, after in zip(("eval", "test"), parts[1:], splits[1:], strict=True):
        if len(before) and not len(after):
            raise DataError(
                f"{column.path}: each class of column '{short(column.name)}' needs a training row, and those of {names} "
                f"leave none for {split}; add rows of these classes, or raise data.{split}_share"
            )
    logger.warning("%s: all rows of class %s in column '%s' fell to eval or test; one of each class is moved to train",
                   column.path, names, short(column.name))  # fmt: skip
    return splits


def read_inputs(path: Path, description: Mapping[str, Any], decimal: Decimal | None = None) -> Tensor:
    """Network inputs [N, D] for the rows of a new file, encoded as `description` says; target columns are not read.

    `decimal` is this file's decimal separator, if it differs from the training table's. Where training dropped rows with a
    missing value, such a row is NaN here.
    """
    rules = Rules(
        decimal or description["decimal"], description["missing"], list(map(na_text, description["na_values"]))
    )
    descriptions = {column["name"]: column for column in description["columns"]}
    if not descriptions:
        raise ValueError("no columns")
    values, masks = {}, []
    for name, column in read_table(path, lambda _: list(descriptions)).items():
        column_type: ColumnType = "categorical" if "values" in descriptions[name] else "numeric"
        masks.append(is_missing(column, rules, column_type))
        if rules.missing is None:
            require_no_missing(column, masks[-1], "the model was trained without missing values, so fill it in")
        values[name] = parse_column(
            column, column_type, masks[-1], rules, "--", "correct it, since this column was numeric in training"
        )
    incomplete = np.any(masks, axis=0)
    if incomplete.any():
        treatment = "it is filled in as in training" if rules.missing == "mean" else "their predictions are empty"
        logger.warning(
            "%s: a value is missing in %d of %d rows; %s", path, incomplete.sum(), len(incomplete), treatment
        )
    return torch.from_numpy(encode(values, description["columns"], rules, path))


def prediction_rows(predictions: Tensor, description: Mapping[str, Any]) -> list[dict[str, str]]:
    """Predictions [N, outputs] as rows of text by column name.

    Regression: numbers in the units of the table. Classification: the class and its probability. Multilabel: the probability
    of true. A prediction that is not finite is empty.
    """
    targets = description["targets"]
    rows = []
    for prediction in predictions.tolist():
        finite = all(map(math.isfinite, prediction))
        if description["task"] == "classification":
            name = targets[0]["name"]
            best = max(range(len(prediction)), key=prediction.__getitem__)
            column = "probability" if name != "probability" else "probability_of_class"
            row = {name: description["classes"][best], column: f"{prediction[best]:.4g}"}
            rows.append(row if finite else dict.fromkeys(row, ""))
            continue
        row = {}
        for value, target in zip(prediction, targets, strict=True):
            std = target.get("std", 1.0)
            predicted = value * std + target.get("mean", 0.0)
            row[target["name"]] = (
                f"{predicted:.{significant_digits(predicted, std)}g}" if math.isfinite(predicted) else ""
            )
        rows.append(row)
    return rows


def significant_digits(number: float, std: float) -> int:
    """Six, and as many more as the numbers of a column with this standard deviation have in common."""
    ratio = abs(number) / std
    return 6 + min(int(math.log10(ratio)), 9) if 10 <= ratio < math.inf else 6
