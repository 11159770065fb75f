"""Tables with named columns: CSV, or NPZ with an array for each column."""

import csv
import functools
import math
import os
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dlref.data import generator
from dlref.data.reading import room, taken, unpackable
from dlref.data.supervised import Supervised
from dlref.errors import ConfigError, DataError, brief

Kind = Literal["numbers", "classes", "labels"]
YES, NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}
MOST_VALUES = 1000  # of a text column, each of which becomes an input of its own
MOST_COLUMNS = 100_000  # of an array
shown = functools.partial(brief, most=40)  # a name or a cell, as it may stand in a sentence


class Table(Supervised):
    """Rows of one file, parted at random by `seed`; `targets` names the columns to tell from the others.

    `kind` says what the targets are: `numbers` (regression), `classes` (one column, one of its values), or `labels` (0 or
    1, true or false, yes or no in each column; one column is binary classification). Inputs are all other columns, or those
    that `inputs` names. Numbers are normalised by mean and deviation of the training rows, a column of text becomes one
    input for each of its values there. `test_file` holds test rows of their own.
    """

    parted_by = ("seed", "eval_share", "test_share")

    def __init__(
        self,
        file: Path,
        targets: Sequence[str],
        kind: Kind,
        inputs: Sequence[str] | None = None,
        test_file: Path | None = None,
        eval_share: float = 0.1,
        test_share: float = 0.1,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        if not targets or (kind == "classes" and len(targets) > 1):
            raise ConfigError(f"data.targets is {list(targets)}; it takes one column, or several of numbers or labels")
        path = Path(os.path.expanduser(file))
        columns = read_table(path)
        wanted = [*(inputs or [name for name in columns if name not in targets]), *targets]
        require(columns, wanted, path)
        if not set(wanted) - set(targets):
            raise DataError(
                f"{path} has no column besides those of data.targets, so there is nothing to tell them from"
            )
        rows = len(columns[wanted[0]])
        test_rows, eval_rows = (max(1, round(share * rows)) if share else 0 for share in (test_share, eval_share))
        test_rows = 0 if test_file else test_rows
        if test_rows + eval_rows >= rows:
            raise DataError(
                f"{path} has {rows} rows; {eval_rows} for eval and {test_rows} for test leave none to train on"
            )
        order = torch.randperm(rows, generator=generator(seed)).numpy()
        parts = np.split(order, [rows - eval_rows - test_rows, rows - test_rows])
        train = {name: columns[name][parts[0]] for name in wanted}
        self.kind: Kind = kind
        self.columns = [learn(name, train[name], path) for name in wanted if name not in targets]
        self.goals = [learn_target(name, train[name], kind, path) for name in targets]
        self.classes = self.goals[0]["values"] if kind == "classes" else [goal["name"] for goal in self.goals]
        self.splits = {
            split: (encode(part := {n: columns[n][rows] for n in wanted}, self.columns, path), self.encoded(part, path))
            for split, rows in zip(("train", "eval", "test"), parts, strict=True)
        }
        if test_file:
            other = Path(os.path.expanduser(test_file))
            columns = read_table(other, {name for name in wanted if columns[name].dtype.kind != "f"})
            require(columns, wanted, other)
            self.splits["test"] = (encode(columns, self.columns, other), self.encoded(columns, other))

    def encoded(self, columns: Mapping[str, np.ndarray], path: Path) -> Tensor:
        """The targets: float [N, D], or the numbers of classes [N]."""
        if self.kind == "classes":
            goal = self.goals[0]
            number = {value: i for i, value in enumerate(goal["values"])}
            cells = [spelled(cell) for cell in columns[goal["name"]].tolist()]
            if unknown := [cell for cell in cells if cell not in number]:
                raise DataError(
                    f"{path}: '{shown(unknown[0])}' in column '{shown(goal['name'])}' is no class of the training rows"
                )
            return torch.tensor([number[cell] for cell in cells])
        if self.kind == "labels":
            return torch.stack([labels(goal["name"], columns[goal["name"]], path) for goal in self.goals], dim=1)
        return encode(columns, self.goals, path)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "reads": "table",
            "kind": self.kind,
            "columns": self.columns,
            "targets": self.goals,
        }


def read_table(path: Path, text: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Columns by name, float64 or text [N]; an array [N, K] of an NPZ file is the columns name.0 … name.K-1.

    What a CSV file has in the columns named by `text` is text, also where all of it may be read as numbers.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path} is not a file; data.file takes a .csv or .npz")
    columns = read_npz(path) if path.suffix == ".npz" else read_csv(path, text)
    lengths = {len(cells): name for name, cells in columns.items()}
    if not lengths or 0 in lengths:
        raise DataError(f"{path} holds no rows; the first line of a CSV file names its columns")
    if len(lengths) > 1:
        (one, name), (other, another) = list(lengths.items())[:2]
        raise DataError(f"{path}: column '{shown(name)}' has {one} rows and column '{shown(another)}' {other}")
    return columns


def read_npz(path: Path) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    try:
        left = room(path)
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name, array = entry.filename.removesuffix(".npy"), read_array(archive, entry, path, left)
                left -= array.nbytes
                parts = {name: array} if array.ndim == 1 else {f"{name}.{i}": part for i, part in enumerate(array.T)}
                if twice := columns.keys() & parts.keys():
                    raise ValueError(f"two arrays are called {min(twice)}")
                columns |= parts
    except MemoryError:
        raise
    except Exception as error:  # which one a crafted file raises is anybody's guess
        raise DataError(f"{path} cannot be read as NPZ ({brief(error)}); save it by numpy.savez") from None
    for name, cells in columns.items():
        if cells.dtype.kind != "U":
            with np.errstate(over="ignore"):  # which `finite` finds
                columns[name] = finite(name, cells.astype(np.float64), path, range(len(cells)))
    return columns


def read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, most: int) -> np.ndarray:
    """Numbers or text, [N] or [N, K], of so many bytes at most; raises ValueError, and others, for anything else.

    NumPy's own reader takes the memory that the header of an array announces before it looks whether it is there.
    """
    with archive.open(unpackable(entry, path)) as file:
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, by_column, dtype = headers[np.lib.format.read_magic(file)](file)
        if dtype.kind not in "biufU" or not dtype.itemsize:
            raise ValueError(f"array {entry.filename} holds {dtype}; a column is numbers or text")
        size = math.prod(shape) * dtype.itemsize
        if len(shape) not in (1, 2) or min(shape) < 1 or max(shape[1:], default=1) > MOST_COLUMNS:
            most_said = f"[rows] or [rows, up to {MOST_COLUMNS:,} columns]"
            raise ValueError(f"array {entry.filename} is of shape {shape}; it takes {most_said}")
        if size > most:
            raise ValueError(f"array {entry.filename} unpacks to {size:,} bytes, and {most:,} may be left to unpack")
        raw = taken(file, size + 1)  # one more than there should be
    if len(raw) != size:
        raise ValueError(f"array {entry.filename} does not hold the {size} bytes that it announces")
    if dtype.kind == "U":
        points = np.frombuffer(raw, np.dtype("u4").newbyteorder(dtype.byteorder))
        if ((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any():
            raise ValueError(f"array {entry.filename} holds text that is not Unicode")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if by_column else "C")


def read_csv(path: Path, text: Collection[str] = ()) -> dict[str, np.ndarray]:
    """A first line of names, then rows; commas or, if the first line has more of them, semicolons or tabs."""
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            header = [name.strip() for name in next(reader, [])]
            for row in reader:
                if not row:
                    continue  # an empty line
                if len(row) != len(header):
                    raise DataError(f"{path}, line {reader.line_num}: {len(row)} cells under {len(header)} names")
                rows.append(row)
                lines.append(reader.line_num)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {brief(error)}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({brief(error)})") from None
    if wrong := [name for name, count in Counter(header).items() if count > 1 or not name or "\0" in name]:
        raise DataError(f"{path}, line 1: '{shown(wrong[0])}' is not the name of one column")
    cells = zip(*rows, strict=True) if rows else ([] for _ in header)
    return {name: column(name, list(part), path, lines, name in text) for name, part in zip(header, cells, strict=True)}


def column(name: str, cells: list[str], path: Path, lines: Sequence[int], text: bool) -> np.ndarray:
    """Text where it is said to be, or at least half of the cells are no numbers, else numbers; DataError for a cell among
    these that is none.

    Text is kept as objects: an array of NumPy's own texts has the width of the longest for each.
    """
    values, other = np.full(len(cells), np.nan), []
    for i, cell in enumerate(cells):
        try:
            values[i] = float(cell)
        except ValueError:
            other.append(i)
    if text or 2 * len(other) >= len(cells):
        if nul := [i for i in other if "\0" in cells[i]]:
            raise DataError(f"{path}, line {lines[nul[0]]}: a NUL byte; save it as UTF-8 text")
        return np.array([cell.strip() for cell in cells], dtype=object)
    if other:
        cell = shown(cells[other[0]])
        raise DataError(f"{path}, line {lines[other[0]]}: '{cell}' in column '{shown(name)}' is not a number")
    return finite(name, values, path, lines)


def finite(name: str, cells: np.ndarray, path: Path, lines: Sequence[int]) -> np.ndarray:
    wrong = np.flatnonzero(~np.isfinite(cells))
    if len(wrong):
        line, number = lines[wrong[0]], cells[wrong[0]]
        raise DataError(f"{path}, line {line}: {number} in column '{shown(name)}' is not a finite number")
    return cells


def require(columns: Mapping[str, np.ndarray], names: Sequence[str], path: Path) -> None:
    if missing := [shown(name) for name in names if name not in columns]:
        raise DataError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(map(shown, list(columns)[:20]))}"
        )


def learn(name: str, cells: np.ndarray, path: Path) -> dict[str, Any]:
    """What the training rows say of a column: mean and deviation of numbers, the values of text."""
    if cells.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = float(cells.mean()), float(cells.std()) or 1.0
        if not math.isfinite(mean + deviation):
            raise DataError(f"{path}: the numbers of column '{shown(name)}' are too large for their mean and deviation")
        return {"name": name, "mean": mean, "deviation": deviation}
    values = sorted({str(cell) for cell in cells})
    if len(values) > MOST_VALUES:
        raise DataError(
            f"{path}: column '{shown(name)}' has {len(values)} different texts; leave it out by data.inputs=[…]"
        )
    return {"name": name, "values": values}


def learn_target(name: str, cells: np.ndarray, kind: Kind, path: Path) -> dict[str, Any]:
    if kind == "numbers":
        if cells.dtype.kind != "f":
            raise DataError(
                f"{path}: column '{shown(name)}' holds text; data.kind=numbers takes numbers, classes takes text"
            )
        return learn(name, cells, path)
    if kind == "labels":
        return {"name": name}
    return {"name": name, "values": [spelled(value) for value in sorted(set(cells.tolist()))]}


def spelled(cell: Any) -> str:
    """The name of a class: whole numbers without their point."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def labels(name: str, cells: np.ndarray, path: Path) -> Tensor:
    said = [str(cell).lower() for cell in cells]
    if unknown := [cell for cell in said if cell not in YES | NO]:
        raise DataError(
            f"{path}: '{shown(unknown[0])}' in column '{shown(name)}' is no label; write 0 or 1, true or false, yes or no"
        )
    return torch.tensor([float(cell in YES) for cell in said])


def encode(columns: Mapping[str, np.ndarray], learned: Sequence[Mapping[str, Any]], path: Path) -> Tensor:
    """Columns as a network reads them, float32 [N, D]; a text that training never had is none of the values."""
    parts = []
    for about in learned:
        cells = columns[about["name"]]
        if ("values" in about) == (cells.dtype.kind == "f"):
            here, there = ("numbers", "text") if "values" in about else ("text", "numbers")
            raise DataError(f"{path}: column '{shown(about['name'])}' holds {here}; the training rows had {there}")
        if "values" in about:
            place = {value: i for i, value in enumerate(about["values"])}
            places = np.array([place.get(str(cell), -1) for cell in cells.tolist()])
            parts.append((places[:, None] == np.arange(len(place))).astype(np.float32))
        else:
            with np.errstate(over="ignore"):
                numbers = ((cells - about["mean"]) / about["deviation"]).astype(np.float32)
            if not np.isfinite(numbers).all():
                far = cells[~np.isfinite(numbers)][0]
                raise DataError(f"{path}: {far} in column '{shown(about['name'])}' is too far from the training rows")
            parts.append(numbers[:, None])
    return torch.from_numpy(np.concatenate(parts, axis=1))


def read_inputs(path: Path, description: Mapping[str, Any]) -> Tensor:
    """The rows of a file as a network that was trained on a table reads them; the targets may be missing."""
    columns = read_table(path, {about["name"] for about in description["columns"] if "values" in about})
    require(columns, [about["name"] for about in description["columns"]], path)
    return encode(columns, description["columns"], path)


def read_out(answers: Tensor, description: Mapping[str, Any]) -> list[dict[str, str]]:
    """Each row's answers by name: numbers in the units of the table, the class and its share, or the share of yes."""
    rows = []
    for answer in answers.tolist():
        if description["kind"] == "classes":
            best = max(range(len(answer)), key=answer.__getitem__)
            rows.append(
                {description["targets"][0]["name"]: description["classes"][best], "share": f"{answer[best]:.4g}"}
            )
            continue
        row = {}
        for value, about in zip(answer, description["targets"], strict=True):
            number = value * about.get("deviation", 1.0) + about.get("mean", 0.0)
            row[about["name"]] = f"{number:.6g}" if math.isfinite(number) else ""
        rows.append(row)
    return rows
