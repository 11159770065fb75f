"""Files of named columns: CSV, plain or compressed, and NPZ with an array for each column."""

import bz2
import csv
import functools
import gzip
import io
import itertools
import lzma
import math
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dlref.data.safe_io import room, taken, unpackable
from dlref.data.text.text_files import decoded
from dlref.errors import DataError, DlrefError, brief

BLANK = "".join(filter(str.isspace, map(chr, range(0x3001))))  # all that Python counts as space
BLANK += "\u200b\u2060\ufeff"  # and those of no width
SEPARATORS = ",;\t|"
MOST_COLUMNS = 100_000  # of an array
MOST_NAMES = 1_000_000  # of all arrays of a file
COMPRESSED: list[tuple[re.Pattern[bytes], Any]] = [  # by the first bytes of a file
    (re.compile(rb"\x1f\x8b"), gzip.open),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.open),
    (re.compile(rb"\xfd7zXZ\0"), lzma.open),
]
shown = functools.partial(brief, most=40)  # a name or a cell, as it may stand in a sentence
Choose = Callable[[Sequence[str]], Sequence[str]]


class Column(NamedTuple):
    """A column as its file has it: texts of a CSV file (dtype object), or what an array of an NPZ file holds."""

    name: str
    cells: np.ndarray  # [N]
    path: Path
    places: np.ndarray  # [N] int64: the line of a CSV file, or the index in an array
    counted: Literal["line", "index"]

    def take(self, rows: np.ndarray) -> "Column":
        return self._replace(cells=self.cells[rows], places=self.places[rows])

    def at(self, row: int) -> str:
        return f"{self.path}, {self.counted} {self.places[row]}"

    def texts(self) -> np.ndarray:
        """The cells as they are written, [N] of dtype object; whole numbers of an array have no point."""
        if self.cells.dtype.kind == "O":
            return self.cells
        return np.array([stripped(spelled(cell)) for cell in self.cells], dtype=object)


def spelled(cell: Any) -> str:
    if isinstance(cell, np.floating) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    return str(cell)


def read_table(path: Path, choose: Choose = list, instead: str = "") -> dict[str, Column]:
    """The columns that `choose` picks among the file's names; nothing else of the file is looked at.

    An array [N, K] of an NPZ file is the columns name.0 … name.K-1. Raises DataError for a file that cannot be read, for a
    column that is not there or there twice, and where there are no rows. `instead` says what else can be done about a
    column than to rename it.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path} is not a file; bring a .csv or .npz")

    def picked(names: Sequence[str]) -> Sequence[str]:
        return require_one_each(choose(names), names, path, instead)

    columns = (read_npz if path.suffix.lower() == ".npz" else read_csv)(path, picked)
    lengths = {len(column.cells): name for name, column in columns.items()}
    if len(lengths) > 1:
        (one, name), (other, another) = list(lengths.items())[:2]
        raise DataError(f"{path}: column '{shown(name)}' has {one} rows and column '{shown(another)}' {other}")
    if not lengths or 0 in lengths:
        raise DataError(
            f"{path} holds no rows; it takes a line of column names and a line for each row, or an array each"
        )
    return columns


def require_one_each(chosen: Sequence[str], names: Sequence[str], path: Path, instead: str) -> Sequence[str]:
    """The chosen names; raises DataError for one that is not the name of exactly one column."""
    counts = Counter(names)
    if absent := [shown(name) for name in chosen if name not in counts]:
        raise DataError(f"{path} has no column {', '.join(absent[:20])}; it has {', '.join(map(shown, names[:20]))}")
    for name in chosen:
        if not name and path.suffix.lower() != ".npz":
            raise DataError(f"{path}, line 1: column {list(names).index(name) + 1} has no name; name it{instead}")
        if counts[name] > 1:
            raise DataError(f"{path} has {counts[name]} columns called '{shown(name)}'; rename them{instead}")
    return chosen


def read_csv(path: Path, choose: Choose) -> dict[str, Column]:
    """A first line of names, then rows. Of commas, semicolons, tabs and bars outside of quotes, those separate that fit
    the first two lines best. Space around a cell is left out, and so are empty lines, unless there is one column alone."""
    content = content_of(path).removeprefix(b"\xef\xbb\xbf")
    decoded(content, path, 1)
    separator = max(SEPARATORS, key=lambda mark: fit(content, mark))
    reader = records(content, separator)
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    skipped: list[int] = []  # empty lines since the last row
    line = 1  # in which a row begins; text in quotes may go on over several
    try:
        for row in reader:
            begun, line = line, reader.line_num + 1
            if not holds_text(row):
                skipped.append(begun)
                continue
            if not header:
                header = list(map(stripped, row))
            elif len(row) != len(header):
                raise DataError(
                    f"{path}, line {begun}: {len(row)} cells under {len(header)} names; a cell that holds the "
                    f"separator '{shown(repr(separator)[1:-1])}' is written in quotes"
                )
            else:
                if len(header) == 1:
                    rows += [[""]] * len(skipped)
                    lines += skipped
                rows.append(row)
                lines.append(begun)
            skipped.clear()
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: {brief(error)}; correct its quotes or separators") from None
    if not header:
        raise DataError(f"{path} is empty, so it holds no rows; the first line of a CSV file names its columns")
    columns, places = {}, np.array(lines)
    for name in choose(header):
        index = header.index(name)
        cells = np.array([stripped(row[index]) for row in rows], dtype=object)
        columns[name] = Column(name, cells, path, places, "line")
    return columns


def content_of(path: Path) -> bytes:
    """All bytes of a file, decompressed if its first bytes are those of gzip, bzip2 or xz.

    Raises DataError for a file that is missing, damaged or a ZIP archive, and for one that unpacks to too much.
    """
    try:
        most = room(path)
        with open(path, "rb") as file:
            head = file.read(10)
        if head.startswith(b"PK\3\4"):
            raise DataError(f"{path} is a ZIP archive or a spreadsheet; bring what is in it as .csv or .csv.gz")
        opened = next((opener for magic, opener in COMPRESSED if magic.match(head)), open)
        with opened(path, "rb") as file:
            content = bytes(taken(file, most + 1))  # one more than there should be
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read ({brief(error)}); bring it again") from None
    if len(content) > most:
        raise DataError(f"{path} unpacks to more than {most:,} bytes; bring it unpacked if it is meant")
    return content


def records(content: bytes, separator: str) -> Any:
    lines = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline="")
    return csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)


def stripped(text: str) -> str:
    """Text without the space around it, that of no width included, which web pages and editors leave."""
    return text.strip(BLANK)


def holds_text(row: Sequence[str]) -> bool:
    """Whether a line is a row of the table, not an empty one or one of space."""
    return len(row) > 1 or bool(stripped("".join(row)))


def fit(content: bytes, separator: str) -> tuple[bool, int, bool]:
    """How well a separator cuts the first two lines: into as many cells, more than one; else by the number of names."""
    try:
        widths = [len(row) for row in itertools.islice(filter(holds_text, records(content, separator)), 2)]
    except csv.Error:
        widths = []
    alike = len(widths) == 2 and widths[0] == widths[1]
    return alike and widths[0] > 1, max(widths[:1], default=0), alike


def read_npz(path: Path, choose: Choose) -> dict[str, Column]:
    try:
        left = room(path)
        with zipfile.ZipFile(path) as archive:
            names_of, count = {}, 0
            for entry in archive.infolist():
                names_of[entry] = names_in(archive, entry, path)
                count += len(names_of[entry])
                if count > MOST_NAMES:
                    raise ValueError(f"it has more than {MOST_NAMES:,} columns")
            chosen = choose(list(itertools.chain(*names_of.values())))
            wanted, found = set(chosen), dict[str, np.ndarray]()
            for entry, own in names_of.items():
                if not wanted.isdisjoint(own):
                    array = read_array(archive, entry, path, left)
                    left -= array.nbytes
                    found |= zip(own, [array] if array.ndim == 1 else array.T, strict=True)
    except (MemoryError, DlrefError):
        raise
    except Exception as error:  # which one a crafted file raises is anybody's guess
        raise DataError(f"{path} cannot be read as NPZ ({brief(error)}); save it by numpy.savez") from None
    places = np.arange(max(map(len, found.values()), default=0))
    return {name: Column(name, found[name], path, places[: len(found[name])], "index") for name in chosen}


def names_in(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> list[str]:
    """The names of an array's columns; an array that cannot be read is one, which is refused where it is wanted."""
    name = entry.filename.removesuffix(".npy")
    try:
        with archive.open(unpackable(entry, path)) as file:
            shape, _, _ = read_header(file)
        return [f"{name}.{i}" for i in range(shape[1])] if readable(shape) and len(shape) == 2 else [name]
    except MemoryError:
        raise
    except Exception:
        return [name]


def read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return headers[np.lib.format.read_magic(file)](file)


def readable(shape: tuple[int, ...]) -> bool:
    return len(shape) in (1, 2) and min(shape) >= 1 and max(shape[1:], default=1) <= MOST_COLUMNS


def read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, most: int) -> np.ndarray:
    """Numbers or text, [N] or [N, K], of so many bytes at most; raises ValueError, and others, for anything else.

    NumPy's own reader takes the memory that the header of an array announces before it looks whether it is there.
    """
    with archive.open(unpackable(entry, path)) as file:
        shape, by_column, dtype = read_header(file)
        if dtype.kind not in "biufU" or not dtype.itemsize:
            raise ValueError(f"array {entry.filename} holds {dtype}; a column is numbers or text")
        size = math.prod(shape) * dtype.itemsize
        if not readable(shape):
            most_said = f"[rows] or [rows, up to {MOST_COLUMNS:,} columns]"
            flat = (*shape[:1], math.prod(shape[1:]))
            way = f"reshape it to {flat}" if readable(flat) else "save it as one of these"
            raise ValueError(f"array {entry.filename} is of shape {shape}; it takes {most_said}: {way}")
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
