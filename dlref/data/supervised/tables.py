"""Tables with named columns: a data set of their rows, and prediction for rows of other files."""

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
from dlref.data.supervised.in_memory import Supervised
from dlref.data.supervised.table_columns import (
    NA_VALUES,
    Decimal,
    Holds,
    Missing,
    Rules,
    absent,
    code,
    encode,
    holds,
    learn,
    or_a_value,
    ordered,
    require_values,
    summary,
    values_of,
)
from dlref.data.supervised.table_files import Column, read_table, shown
from dlref.errors import ConfigError, DataError
from dlref.interfaces import HasSummary, HeldOut, NamedTargets

Kind = Literal["numbers", "classes", "labels"]
HELD: dict[Kind, Holds] = {"numbers": "numbers", "classes": "categories", "labels": "labels"}
MOST_SUMMARIZED = 20  # columns
OTHERS = ", or choose others by data.inputs=[…]"
PLAIN_NAME = re.compile(r"[^\W\d]\w*", re.ASCII)
logger = logging.getLogger("dlref")


class Table(Supervised, NamedTargets, HeldOut, HasSummary):
    """Rows of one file, split at random by `seed`; `targets` names the columns to predict from the others.

    `kind` says what the targets are: `numbers` (regression), `classes` (one column, one of its values), or `labels` (0 or
    1, true or false, yes or no in each column; one column is binary classification). Inputs are all other columns, or those
    that `inputs` names. Numbers are standardized by mean and standard deviation of the training rows. A column without
    numbers, or named in `categories`, becomes one input for each of its values there. `test_file` holds the test rows.

    A missing value (an empty cell, or one of `na_values`) is an error, unless `missing` is `drop`, which leaves its row out,
    or `mean`: the mean of the training rows, of categories the most frequent; a row without a target is left out.
    `decimal=comma` reads numbers as 3,14.
    """

    split_settings = ("seed", "eval_share", "test_share", "test_file", "missing", "na_values")

    def __init__(
        self,
        file: Path,
        targets: Sequence[str],
        kind: Kind,
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
        if not targets or (kind == "classes" and len(targets) > 1):
            raise ConfigError(f"data.targets is {list(targets)}; it takes one column, or several of numbers or labels")
        if twice := [name for name, count in Counter([*(inputs or []), *targets]).items() if count > 1]:
            raise ConfigError(f"data.inputs and data.targets name '{shown(twice[0])}' twice; name each column once")
        for name, share in (("eval", eval_share), ("test", test_share)):
            if not 0 <= share < 1:
                raise ConfigError(f"data.{name}_share is {share}; it takes a share from 0 to below 1")
        self.kind: Kind = kind
        self.rules = Rules(decimal, missing, [code(value) for value in na_values])
        path = Path(os.path.expanduser(file))
        every = read_table(path, lambda names: [*(inputs or [n for n in names if n not in targets]), *targets], OTHERS)
        self.inputs, self.targets = [name for name in every if name not in targets], list(targets)
        if not self.inputs:
            raise DataError(f"{path} has no column besides those of data.targets; it takes one or more to predict from")
        if unknown := [name for name in categories if name not in self.inputs]:
            raise ConfigError(
                f"data.categories names '{shown(unknown[0])}', which is not among the inputs; these are "
                f"{', '.join(map(shown, self.inputs[:20]))}"
            )
        self.held: dict[str, Holds] = {name: holds(every[name], self.rules, categories) for name in self.inputs}
        self.held |= dict.fromkeys(targets, HELD[kind])
        gone = missing_in(every, self.held, self.rules)
        require_learnable(every, targets, gone)
        columns, gone_there = complete(every, targets, self.rules, gone)
        values = self.read(columns, gone_there)
        parts = split_rows(len(values[targets[0]]), eval_share, 0.0 if test_file else test_share, seed, path)
        if kind == "classes":
            parts = with_every_class(parts, columns[targets[0]], values[targets[0]])
        self.columns = [learn(columns[name], values[name][parts[0]]) for name in self.inputs]
        self.goals: list[dict[str, Any]] = [{"name": name} for name in targets]
        if kind == "numbers":
            self.goals = [learn(columns[name], values[name][parts[0]]) for name in targets]
        self.classes = list(targets)
        if kind == "classes":
            self.classes = self.goals[0]["values"] = ordered(values[targets[0]])
        self.splits = {
            split: self.encoded({name: cells[part] for name, cells in values.items()}, path)
            for split, part in zip(("train", "eval", "test"), parts, strict=True)
        }
        if test_file:
            self.splits["test"] = self.read_test(Path(os.path.expanduser(test_file)))
        self.lines = self.summarize(values, gone)

    def summarize(self, values: Mapping[str, np.ndarray], gone: Mapping[str, np.ndarray]) -> list[str]:
        """What each column holds in the rows that are used, and how many values are missing in the file."""
        said = {name: summary(name, values[name], self.held[name], int(missed.sum())) for name, missed in gone.items()}
        lines = [said[name] for name in self.inputs]
        if len(lines) > MOST_SUMMARIZED:
            lines[MOST_SUMMARIZED:] = [f"and {len(lines) - MOST_SUMMARIZED:,} more inputs"]
        lines += [f"target {said[name]}" for name in self.targets]
        found, used = len(gone[self.targets[0]]), len(values[self.targets[0]])
        if found > used:
            lines.append(f"{found - used:,} of {found:,} rows are left out, since a value is missing")
        return lines

    def read(self, columns: Mapping[str, Column], gone: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the cells of the columns mean, as `values_of` has it."""
        found = {}
        for name, column in columns.items():
            remedy = f"name the column in data.categories=[{typed(name)}] if it holds categories"
            if name not in self.inputs:
                remedy = "set data.kind=classes if the column holds classes"
            found[name] = values_of(column, self.held[name], gone[name], self.rules, "data.", remedy)
        return found

    def read_test(self, path: Path) -> tuple[Tensor, Tensor]:
        whole = read_table(path, lambda _: list(self.held), OTHERS)
        columns, gone = complete(whole, self.targets, self.rules, missing_in(whole, self.held, self.rules))
        values = self.read(columns, gone)
        found, used = (len(table[self.targets[0]].cells) for table in (whole, columns))
        if found > used:
            logger.info(
                "%s: %s of %s rows are left out, since a value is missing", path, f"{found - used:,}", f"{found:,}"
            )
        if self.kind == "classes":
            name = self.goals[0]["name"]
            unknown = [row for row, value in enumerate(values[name]) if value not in self.classes]
            if unknown:
                raise DataError(
                    f"{columns[name].at(unknown[0])}: '{shown(values[name][unknown[0]])}' in column '{shown(name)}' is no "
                    f"class of the training rows, which have {', '.join(map(shown, self.classes[:20]))}; correct it"
                )
        return self.encoded(values, path)

    def encoded(self, values: Mapping[str, np.ndarray], path: Path) -> tuple[Tensor, Tensor]:
        """Inputs float32 [N, D], and targets: float32 [N, D], or the numbers of classes, int64 [N]."""
        inputs = torch.from_numpy(encode(values, self.columns, self.rules, path))
        if self.kind == "numbers":
            return inputs, torch.from_numpy(encode(values, self.goals, self.rules, path))
        if self.kind == "labels":
            labels = [torch.from_numpy(values[goal["name"]]).float() for goal in self.goals]
            return inputs, torch.stack(labels, dim=1)
        places = {value: i for i, value in enumerate(self.classes)}
        return inputs, torch.tensor([places[cell] for cell in values[self.goals[0]["name"]].tolist()])

    def summary(self) -> list[str]:
        return self.lines

    def describe(self) -> dict[str, Any]:
        return (
            super().describe()
            | {"reads": "table", "kind": self.kind, "columns": self.columns, "targets": self.goals}
            | self.rules._asdict()
        )


def typed(name: str) -> str:
    """A name as it is typed in a list on the command line."""
    return shown(name) if PLAIN_NAME.fullmatch(name) else f'"{shown(name)}"'


def missing_in(columns: Mapping[str, Column], held: Mapping[str, Holds], rules: Rules) -> dict[str, np.ndarray]:
    """Which cells of each column are missing, [N] bool."""
    return {name: absent(column, rules, held[name]) for name, column in columns.items()}


def require_learnable(columns: Mapping[str, Column], targets: Sequence[str], gone: Mapping[str, np.ndarray]) -> None:
    """Raise DataError for a column of the training table without a value, or with values only where a target is missing.

    `gone` says which cells are missing, [N] bool.
    """
    present = {name: ~missed for name, missed in gone.items()}
    has_targets = np.all([present[name] for name in targets], axis=0)
    for name, column in columns.items():
        said, way = f"{column.path}: column '{shown(name)}'", "leave it out by data.inputs=[…]"
        if not present[name].any():
            way = "choose another by data.targets" if name in targets else way
            raise DataError(f"{said} has no value in any row; {way}{or_a_value(column, ~present[name])}")
        if has_targets.any() and not present[name][has_targets].any():
            raise DataError(f"{said} has values only in rows whose target is missing; fill in their targets, or {way}")


def complete(
    columns: Mapping[str, Column], targets: Sequence[str], rules: Rules, gone: Mapping[str, np.ndarray]
) -> tuple[Mapping[str, Column], Mapping[str, np.ndarray]]:
    """The columns, and which of their cells are missing (`gone`, [N] bool), without the rows that are left out.

    Raises DataError for a missing value where none may be missing.
    """
    if rules.missing is None:
        for name, column in columns.items():
            fill = "" if name in targets else "data.missing=mean to fill in the mean or the most frequent category, or "
            remedy = f"fill it in, or set {fill}data.missing=drop to leave such rows out"
            require_values(column, gone[name], remedy + or_a_value(column, gone[name]))
    dropped = [cells for name, cells in gone.items() if name in targets or rules.missing == "drop"]
    kept = np.flatnonzero(~np.any(dropped, axis=0))
    rows = len(dropped[0])
    if not len(kept):
        path = columns[targets[0]].path
        what, choice = ("value", "inputs") if rules.missing == "drop" else ("target", "targets")
        raise DataError(
            f"{path} has a missing {what} in each of its {rows:,} rows, so that data.missing={rules.missing} leaves none; "
            f"fill them in, or choose other columns by data.{choice}=[…]"
        )
    if len(kept) == rows:
        return columns, gone
    return {name: column.take(kept) for name, column in columns.items()}, {name: gone[name][kept] for name in columns}


def split_rows(rows: int, eval_share: float, test_share: float, seed: int, path: Path) -> list[np.ndarray]:
    """Numbers of rows, at random, for train, eval and test: at least one for each share above 0."""
    test_rows, eval_rows = (max(1, round(share * rows)) if share else 0 for share in (test_share, eval_share))
    if test_rows + eval_rows >= rows:
        raise DataError(
            f"{path} has {rows} usable rows; {eval_rows} for eval and {test_rows} for test leave none to train on: bring more "
            "rows, or set lower data.eval_share and data.test_share"
        )
    order = torch.randperm(rows, generator=generator(seed)).numpy()
    return np.split(order, [rows - eval_rows - test_rows, rows - test_rows])


def with_every_class(parts: Sequence[np.ndarray], column: Column, labels: np.ndarray) -> list[np.ndarray]:
    """The splits, with one row of each class that has none to train on moved from eval or test to train."""
    if len(set(labels)) < 2:
        raise DataError(
            f"{column.path}: column '{shown(column.name)}' holds only the class '{shown(labels[0])}'; it takes two or more"
        )
    unseen = set(labels) - set(labels[parts[0]])
    if not unseen:
        return list(parts)
    first = {labels[row]: row for row in reversed(np.concatenate(parts[1:]))}
    moved = np.array([first[label] for label in sorted(unseen)])
    splits = [np.concatenate([parts[0], moved]), *(part[~np.isin(part, moved)] for part in parts[1:])]
    names = ", ".join(f"'{shown(label)}'" for label in sorted(unseen)[:5])
    for split, before, after in zip(("eval", "test"), parts[1:], splits[1:], strict=True):
        if len(before) and not len(after):
            raise DataError(
                f"{column.path}: each class of column '{shown(column.name)}' needs a row to train on, and those of {names} "
                f"leave none for {split}; bring more rows of these classes, or raise data.{split}_share"
            )
    logger.warning("%s: of class %s in column '%s' all rows fell to eval or test; one of each class is moved to train",
                   column.path, names, shown(column.name))  # fmt: skip
    return splits


def read_inputs(path: Path, description: Mapping[str, Any], decimal: Decimal | None = None) -> Tensor:
    """The rows of a file as a network that was trained on a table reads them, [N, D]; the targets are not looked at.

    `decimal` is how this file writes numbers, if another way than the training rows. Where rows with a missing value were
    left out of training, such a row is NaN here.
    """
    rules = Rules(decimal or description["decimal"], description["missing"], list(map(code, description["na_values"])))
    about = {column["name"]: column for column in description["columns"]}
    if not about:
        raise ValueError("no columns")
    values, gone = {}, []
    for name, column in read_table(path, lambda _: list(about)).items():
        held: Holds = "categories" if "values" in about[name] else "numbers"
        gone.append(absent(column, rules, held))
        if rules.missing is None:
            require_values(column, gone[-1], "the model was trained without missing values, so fill it in")
        values[name] = values_of(
            column, held, gone[-1], rules, "--", "correct it, since this column held numbers in training"
        )
    rows = np.any(gone, axis=0)
    if rows.any():
        what = "it is filled in as in training" if rules.missing == "mean" else "they get no answer"
        logger.warning("%s: a value is missing in %d of %d rows; %s", path, rows.sum(), len(rows), what)
    return torch.from_numpy(encode(values, description["columns"], rules, path))


def read_out(answers: Tensor, description: Mapping[str, Any]) -> list[dict[str, str]]:
    """Each row's answers by name: numbers in the units of the table, the class and its probability, or that of yes.

    An answer that is not finite is empty.
    """
    targets = description["targets"]
    rows = []
    for answer in answers.tolist():
        known = all(map(math.isfinite, answer))
        if description["kind"] == "classes":
            name = targets[0]["name"]
            best = max(range(len(answer)), key=answer.__getitem__)
            column = "probability" if name != "probability" else "probability_of_class"
            row = {name: description["classes"][best], column: f"{answer[best]:.4g}"}
            rows.append(row if known else dict.fromkeys(row, ""))
            continue
        row = {}
        for value, about in zip(answer, targets, strict=True):
            std = about.get("deviation", 1.0)
            predicted = value * std + about.get("mean", 0.0)
            row[about["name"]] = f"{predicted:.{digits(predicted, std)}g}" if math.isfinite(predicted) else ""
        rows.append(row)
    return rows


def digits(number: float, std: float) -> int:
    """How many digits of a number are printed: six, and as many more as the numbers of its column have in common."""
    ratio = abs(number) / std
    return 6 + min(int(math.log10(ratio)), 9) if 10 <= ratio < math.inf else 6
