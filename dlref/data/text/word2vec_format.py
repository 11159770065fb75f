"""Word vectors in the text and binary formats of word2vec.c, which gensim reads and writes too."""

import codecs
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch
from torch import Tensor

from dlref.data.safe_io import UTF16, max_unpacked_size, open_unpacked
from dlref.errors import DataError, brief

MAX_WORD = 1000  # bytes
MAX_WIDTH = 100_000  # dimensions


def write_vectors(path: Path, words: Sequence[str], vectors: Tensor) -> None:
    """Write words and their vectors [V, D] in float32; the file name selects the format, as in `read_vectors`.

    Raises DataError for a word with white space, which the formats cannot hold, and for a path that cannot be written.
    """
    if wrong := [word for word in words if not word or word.split() != [word]]:
        raise DataError(f"the word {wrong[0]!r} cannot be written to {path}: its format separates words by white space")
    rows = vectors.detach().cpu().to(torch.float32).numpy()
    try:
        with gzip.open(path, "wb") if path.suffix == ".gz" else open(path, "wb") as file:
            file.write(f"{len(words)} {rows.shape[1]}\n".encode())
            for word, row in zip(words, rows, strict=True):
                vector = row.tobytes() if ".bin" in path.suffixes else " ".join(map(repr, row.tolist())).encode()
                file.write(word.encode() + b" " + vector + b"\n")
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); choose another path") from None


def read_vectors(path: Path) -> tuple[list[str], Tensor]:
    """Words, and vectors [V, D] in float32. `.bin` is binary, any other UTF-8 text; either may be compressed by gzip.

    Raises DataError, with the line, for a file that is missing, cut off or of another format.
    """
    binary = ".bin" in path.suffixes
    try:
        most = max_unpacked_size(path)
        with open_unpacked(path) as file:
            header = file.readline(MAX_WORD)
            if header.startswith(UTF16):
                raise DataError(f"{path} is UTF-16; bring it as UTF-8")
            header = header.removeprefix(codecs.BOM_UTF8).split()
            if len(header) != 2 or not all(part.isdigit() for part in header) or not 0 < int(header[1]) <= MAX_WIDTH:
                raise DataError(
                    f"{path} does not begin with the number of words and of their dimensions, up to {MAX_WIDTH:,}; GloVe's "
                    "files lack that line: put it before the first one"
                )
            count, width = map(int, header)
            words: list[str] = []
            rows: list[np.ndarray] = []
            for line in range(2, count + 2):
                word, row = (read_binary if binary else read_text)(file, width)
                if row is None or "\0" in word:
                    raise DataError(f"{path}, line {line}: no word with {width} numbers; {count} were announced")
                if file.tell() > most:
                    raise DataError(f"{path} unpacks to more than {most:,} bytes; bring it unpacked if it is meant")
                words.append(word)
                rows.append(row)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({brief(error)})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {len(words) + 2}: a word that is not UTF-8 ({error.reason})") from None
    return words, torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, width)


Row = tuple[str, np.ndarray] | tuple[Literal[""], None]


def read_text(file: IO[bytes], width: int) -> Row:
    line = file.readline(MAX_WORD + 40 * width).decode()
    word, *numbers = line.rstrip("\r\n").rstrip(" ").rsplit(" ", width)
    try:
        row = np.array(numbers, np.float32)
    except ValueError:
        return "", None
    return (word, row) if len(row) == width and np.isfinite(row).all() else ("", None)


def read_binary(file: IO[bytes], width: int) -> Row:
    word = b""
    while (byte := file.read(1)) != b" ":
        if not byte or len(word) > MAX_WORD:
            return "", None
        word += byte.lstrip(b"\n")  # which word2vec.c writes after each vector, and gensim does not
    row = np.frombuffer(numbers, np.float32) if len(numbers := file.read(4 * width)) == 4 * width else None
    return (word.decode(), row) if row is not None and np.isfinite(row).all() else ("", None)
