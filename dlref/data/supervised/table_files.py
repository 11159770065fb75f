"""Reads files of named columns: CSV, plain or compressed, and NPZ with one array per column."""

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

from dlref.data.safe_io import checked_entry, max_unpacked_size, read_up_to
from dlref.data.text.text_files import decode_utf8
from dlref.errors import DataError, DlrefError, brief

WHITESPACE = "".join(filter(str.isspace, map(chr, range(0x3001))))  # all that str.isspace accepts
WHITESPACE += "\u200b\u2060\ufeff"  # and zero-width space, joiner and byte order mark
SEPARATORS = ",;\t|"
MAX_COLUMNS = 100_000  # per array
MAX_NAMES = 1_000_000  # of columns, over all arrays of a file
COMPRESSED: list[tuple[re.Pattern[bytes], Any]] = [  # openers by magic number
    (re.compile(rb"\x1f\x8b"), gzip.open),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.open),
    (re.compile(rb"\xfd7zXZ\0"), lzma.open),
]
short = functools.partial(brief, most=40)  # a column name or a cell, for messages
Select = Callable[[Sequence[str]], Sequence[str]]


class Column(NamedTuple):
    """A column as stored: strings of a CSV file (dtype object), or an array of an NPZ file."""

    name: str
    cells: np.ndarray  # [N]
    path: Path
    positions: np.ndarray  # [N] int64: line numbers in a CSV file, or indices in an array
    position_unit: Literal["line", "index"]

    def take(self, rows: np.ndarray) -> "Column":
        return self._replace(cells=self.cells[rows], positions=self.positions[rows])

    def location(self, row: int) -> str:
        return f"{self.path}, {self.position_unit} {self.positions[row]}"

    def texts(self) -> np.ndarray:
        """The cells as strings [N], dtype object; integral floats of an array are written without a decimal point."""
        if self.cells.dtype.kind == "O":
            return self.cells
        return np.array([strip_blank(cell_text(cell)) for cell in self.cells], dtype=object)


def cell_text(cell: Any) -> str:
    if isinstance(cell, np.floating) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    return str(cell)


def read_table(path: Path, select: Select = list, alternative: str = "") -> dict[str, Column]:
    """The columns that `select` chooses from the file's column names; other columns are not parsed.

    An array [N, K] of an NPZ file is the columns name.0 … name.K-1. Raises DataError for an unreadable file, a missing or
    duplicate column, and a file without rows. `alternative` ends the messages that ask to rename a column.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path} is not a file; it takes a .csv or .npz")

    def selected(names: Sequence[str]) -> Sequence[str]:
        return require_unique(select(names), names, path, alternative)

    columns = (read_npz if path.suffix.lower() == ".npz" else read_csv)(path, selected)
    lengths = {len(column.cells): name for name, column in columns.items()}
    if len(lengths) > 1:
        (one, name), (other, another) = list(lengths.items())[:2]
        raise DataError(f"{path}: column '{short(name)}' has {one} rows and column '{short(another)}' {other}")
    if not lengths or 0 in lengths:
        raise DataError(
            f"{path} has no rows; it takes a line of column names and one line per row, or one array per column"
        )
    return columns


def require_unique(chosen: Sequence[str], names: Sequence[str], path: Path, alternative: str) -> Sequence[str]:
    """The chosen names; raises DataError for one that does not name exactly one column."""
    counts = Counter(names)
    if unknown := [short(name) for name in chosen if name not in counts]:
        raise DataError(f"{path} has no column {', '.join(unknown[:20])}; it has {', '.join(map(short, names[:20]))}")
    for name in chosen:
        if not name and path.suffix.lower() != ".npz":
            raise DataError(f"{path}, line 1: column {list(names).index(name) + 1} has no name; name it{alternative}")
        if counts[name] > 1:
            raise DataError(f"{path} has {counts[name]} columns called '{short(name)}'; rename them{alternative}")
    return chosen


def read_csv(path: Path, select: Select) -> dict[str, Column]:
    """Columns of a CSV file whose first line is the header.

    The separator is the comma, semicolon, tab or bar that fits the first two lines best. Cells are stripped; empty lines
    are skipped, except in a file of one column, where they are empty cells.
    """
    content = read_content(path).removeprefix(b"\xef\xbb\xbf")
    decode_utf8(content, path, 1)
    separator = max(SEPARATORS, key=lambda separator: separator_score(content, separator))
    reader = csv_rows(content, separator)
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    skipped: list[int] = []  # empty lines since the last row
    next_line = 1  # where the next row starts; quoted text may span several lines
    try:
        for row in reader:
            line, next_line = next_line, reader.line_num + 1
            if not is_row(row):
                skipped.append(line)
                continue
            if not header:
                header = list(map(strip_blank, row))
            elif len(row) != len(header):
                raise DataError(
                    f"{path}, line {line}: {len(row)} cells under {len(header)} column names; put a cell that contains the "
                    f"separator '{short(repr(separator)[1:-1])}' in quotes"
                )
            else:
                if len(header) == 1:
                    rows += [[""]] * len(skipped)
                    lines += skipped
                rows.append(row)
                lines.append(line)
            skipped.clear()
    except csv.Error as error:
        raise DataError(f"{path}, line {next_line}: {brief(error)}; correct its quotes or separators") from None
    if not header:
        raise DataError(f"{path} is empty, so it has no rows; the first line of a CSV file names its columns")
    columns, positions = {}, np.array(lines)
    for name in select(header):
        index = header.index(name)
        cells = np.array([strip_blank(row[index]) for row in rows], dtype=object)
        columns[name] = Column(name, cells, path, positions, "line")
    return columns


def read_content(path: Path) -> bytes:
    """All bytes of a file, decompressed if it is gzip, bzip2 or xz by its magic number.

    Raises DataError for a file that is missing, damaged, a ZIP archive, or too large when unpacked.
    """
    try:
        most = max_unpacked_size(path)
        with open(path, "rb") as file:
            head = file.read(10)
        if head.startswith(b"PK\3\4"):
            raise DataError(f"{path} is a ZIP archive or a spreadsheet; export it as .csv or .csv.gz")
        opened = next((opener for magic, opener in COMPRESSED if magic.match(head)), open)
        with opened(path, "rb") as file:
            content = bytes(read_up_to(file, most + 1))  # one more than allowed
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read ({brief(error)}); fetch or export it again") from None
    if len(content) > most:
        raise DataError(f"{path} unpacks to more than {most:,} bytes; unpack the file if the size is right")
    return content


def csv_rows(content: bytes, separator: str) -> Any:
    lines = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline="")
    return csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)


def strip_blank(text: str) -> str:
    """Text without surrounding white space, zero-width characters included, which web pages and editors leave."""
    return text.strip(WHITESPACE)


def is_row(row: Sequence[str]) -> bool:
    """Whether a line is a row of the table, not empty or white space."""
    return len(row) > 1 or bool(strip_blank("".join(row)))


def separator_score(content: bytes, separator: str) -> tuple[bool, int, bool]:
    """How well a separator splits the first two lines: first into equally many cells, then into many column names."""
    try:
        widths = [len(row) for row in itertools.islice(filter(is_row, csv_rows(content, separator)), 2)]
    except csv.Error:
        widths = []
    equal = len(widths) == 2 and widths[0] == widths[1]
    return equal and widths[0] > 1, max(widths[:1], default=0), equal


def read_npz(path: Path, select: Select) -> dict[str, Column]:
    try:
        left = max_unpacked_size(path)
        with zipfile.ZipFile(path) as archive:
            names_by_entry, count = {}, 0
            for entry in archive.infolist():
                names_by_entry[entry] = column_names(archive, entry, path)
                count += len(names_by_entry[entry])
                if count > MAX_NAMES:
                    raise ValueError(f"it has more than {MAX_NAMES:,} columns")
            chosen = select(list(itertools.chain(*names_by_entry.values())))
            wanted, cells = set(chosen), dict[str, np.ndarray]()
            for entry, names in names_by_entry.items():
                if not wanted.isdisjoint(names):
                    array = read_array(archive, entry, path, left)
                    left -= array.nbytes
                    cells |= zip(names, [array] if array.ndim == 1 else array.T, strict=True)
    except (MemoryError, DlrefError):
        raise
    except Exception as error:  # a crafted file may raise any
        raise DataError(f"{path} cannot be read as NPZ ({brief(error)}); save it by numpy.savez") from None
    positions = np.arange(max(map(len, cells.values()), default=0))
    return {name: Column(name, cells[name], path, positions[: len(cells[name])], "index") for name in chosen}


def column_names(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> list[str]:
    """Names of an array's columns; an unreadable array counts as one column, and is refused where it is selected."""
    name = entry.filename.removesuffix(".npy")
    try:
        with archive.open(checked_entry(entry, path)) as file:
            shape, _, _ = read_header(file)
        return [f"{name}.{i}" for i in range(shape[1])] if valid_shape(shape) and len(shape) == 2 else [name]
    except MemoryError:
        raise
    except Exception:
        return [name]


def read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return headers[np.lib.format.read_magic(file)](file)


def valid_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) in (1, 2) and min(shape) >= 1 and max(shape[1:], default=1) <= MAX_COLUMNS


def read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, most: int) -> np.ndarray:
    """An array of numbers or text, [N] or [N, K], of at most `most` bytes; raises ValueError, and others, for anything else.

    NumPy's own reader allocates what the header announces before it checks that the bytes exist.
    """
    with archive.open(checked_entry(entry, path)) as file:
        shape, by_column, dtype = read_header(file)
        if dtype.kind not in "biufU" or not dtype.itemsize:
            raise ValueError(f"array {entry.filename} holds {dtype}; a column is numbers or text")
        size = math.prod(shape) * dtype.itemsize
        if not valid_shape(shape):
            expected = f"[rows] or [rows, up to {MAX_COLUMNS:,} columns]"
            flat = (*shape[:1], math.prod(shape[1:]))
            remedy = f"reshape it to {flat}" if valid_shape(flat) else "save it as one of these"
            raise ValueError(f"array {entry.filename} has shape {shape}; it takes {expected}: {remedy}")
        if size > most:
            raise ValueError(
                f"array {entry.filename} unpacks to {size:,} bytes, more than the {most:,} that are left of the limit"
            )
        raw = read_up_to(file, size + 1)  # one more than announced
    if len(raw) != size:
        raise ValueError(f"array {entry.filename} does not hold the {size} bytes that it announces")
    if dtype.kind == "U":
        points = np.frombuffer(raw, np.dtype("u4").newbyteorder(dtype.byteorder))
        if ((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any():
            raise ValueError(f"array {entry.filename} holds text that is not Unicode")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if by_column else "C")
