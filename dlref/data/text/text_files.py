"""Text files as token ids: encoded once into memory-mapped files, which are cached by content and settings."""

import itertools
import json
import math
import os
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dlref.data.download import sha256
from dlref.data.safe_io import CHUNK, UTF16, checked_entry, max_unpacked_size, open_unpacked
from dlref.data.text.token_cache import cached
from dlref.data.text.tokenizer import END, UNKNOWN, Level, Tokenizer, Vocabulary, learn_bpe, sentencepiece_version
from dlref.errors import CheckpointError, ConfigError, DataError, brief

MAX_WORD = 2**26  # bytes
FORMAT = 1  # of the cache; raise it whenever the same settings would give other ids


class Encoded(NamedTuple):
    """The token ids of each split, with their tokenizer and vocabulary."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    splits: dict[str, Tensor]  # [N] int32, memory-mapped


def encode(
    files: Mapping[str, Path],
    level: Level,
    min_freq: int = 1,
    max_vocab_size: int | None = None,
    bpe_vocab_size: int = 8000,
    held_out: Mapping[str, float] | None = None,
) -> Encoded:
    """Encode a file for each split, with a vocabulary built from `train`.

    Tokens that occur less than `min_freq` times, or do not fit into `max_vocab_size`, are `<unk>`; with `bpe` there are
    `bpe_vocab_size` subwords, and nothing is `<unk>`. `held_out` cuts fractions off the end of `train` for further splits,
    the first of them last. Raises DataError for a file that is missing, empty, broken or not text; ConfigError for
    impossible numbers.
    """
    if min_freq < 1 or (max_vocab_size is not None and max_vocab_size < 3):
        raise ConfigError(f"data.min_freq is {min_freq}, 1 or more, and max_vocab_size {max_vocab_size}, 3 or more")
    settings: dict[str, Any] = {
        "format": FORMAT,
        "level": level,
        "min_freq": min_freq,
        "max_vocab_size": max_vocab_size,
        "held_out": dict(held_out or {}),
    }
    if level == "bpe":  # the vocabulary is that of the sentencepiece model
        settings |= {"min_freq": None, "max_vocab_size": None}
        settings |= {"bpe_vocab_size": bpe_vocab_size, "sentencepiece": sentencepiece_version()}
    hashes = {split: file_hash(path) for split, path in files.items()}
    return cached([settings, hashes], lambda folder: build(folder, files, settings), load)


def file_hash(path: Path) -> str:
    try:
        max_unpacked_size(path)  # refuses a pipe or a device, which may never end
        return sha256(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); bring a text, plain or as .gz") from None


def load(folder: Path) -> Encoded | None:
    """What `build` wrote, or None where it is missing or incomplete."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        splits = {}
        for split, length in about["lengths"].items():
            path = folder / f"{split}.int32"
            if path.stat().st_size != 4 * length:
                return None
            ids = np.memmap(path, np.int32, mode="c") if length else np.zeros(0, np.int32)
            splits[split] = torch.from_numpy(ids)
        return Encoded(Tokenizer.described(about["tokenizer"]), Vocabulary(about["words"]), splits)
    except (CheckpointError, DataError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def build(folder: Path, files: Mapping[str, Path], settings: dict[str, Any]) -> None:
    """Encode in two rounds: number the tokens by first occurrence, then renumber them by their ids in the vocabulary."""
    level: Level = settings["level"]
    model = None
    if level == "bpe":
        fraction = 1 - sum(settings["held_out"].values())
        if not any(map(str.strip, first_lines(files["train"], fraction))):  # which sentencepiece reports less clearly
            raise DataError(f"{files['train']} holds no text to train on; bring another one for data.train")
        model = learn_bpe(first_lines(files["train"], fraction), settings["bpe_vocab_size"])
    tokenizer = Tokenizer(level, model)
    numbers: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    if level == "bpe":
        numbers.update(Vocabulary.of_text(tokenizer, {}, 1, ()).ids)
    lengths = {split: write_numbers(folder / split, path, tokenizer, numbers) for split, path in files.items()}
    for split, path in files.items():
        if not lengths[split]:
            raise DataError(f"{path} holds no text; bring another one for data.{split}")
    parts = {split: (split, 0, length) for split, length in lengths.items()}  # split -> file, start, stop
    stop = lengths["train"]
    for split, fraction in settings["held_out"].items():
        start = max(stop - math.ceil(fraction * lengths["train"]), 0)
        parts[split], stop = ("train", start, stop), start
    parts["train"] = ("train", 0, stop)
    tokens = list(numbers)
    counts = np.zeros(len(tokens), np.int64)
    for chunk in read_numbers(folder / "train", 0, stop):
        counts += np.bincount(chunk, minlength=len(tokens))
    frequencies = {token: int(count) for token, count in zip(tokens, counts, strict=True) if count}
    vocabulary = Vocabulary.of_text(
        tokenizer, frequencies, settings["min_freq"], [UNKNOWN, END], settings["max_vocab_size"]
    )
    ids = np.array(vocabulary.lookup_indices(tokens), np.int32)
    for split, (file, start, stop) in parts.items():
        with open(folder / f"{split}.int32", "wb") as out:
            for chunk in read_numbers(folder / file, start, stop):
                ids.take(chunk).tofile(out)
            os.fsync(out.fileno())  # or a power cut could leave a file of the right length without its content
    for split in files:
        (folder / split).unlink()
    about = {
        "format": FORMAT,
        "words": vocabulary.words,
        "tokenizer": tokenizer.describe(),
        "lengths": {split: stop - start for split, (_, start, stop) in parts.items()},
    }
    (folder / "about.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def first_lines(path: Path, fraction: float) -> Iterator[str]:
    """The lines of a text that start within this fraction of its characters."""
    left = fraction * sum(map(len, text_chunks(path)))
    for text in text_chunks(path):
        for line in text.split("\n"):
            if left <= 0:
                return
            left -= len(line) + 1
            yield line


def write_numbers(out: Path, path: Path, tokenizer: Tokenizer, numbers: Mapping[str, int]) -> int:
    """Write the tokens of a file as int32 numbers, numbering new tokens as they occur; returns how many there are."""
    length, starts_line = 0, True
    with open(out, "wb") as file:
        for text in text_chunks(path):
            tokens = tokenizer(text, starts_line)
            starts_line = text.endswith("\n") or (starts_line and not text)
            np.fromiter(map(numbers.__getitem__, tokens), np.int32, len(tokens)).tofile(file)
            length += len(tokens)
    return length


def read_numbers(path: Path, start: int, stop: int) -> Iterator[np.ndarray]:
    """The numbers start..stop in chunks; not memory-mapped, since Windows deletes no file that is mapped."""
    with open(path, "rb") as file:
        file.seek(4 * start)
        for position in range(start, stop, CHUNK):
            yield np.fromfile(file, np.int32, min(CHUNK, stop - position))


def text_chunks(path: Path) -> Iterator[str]:
    """A UTF-8 file, plain or compressed (.gz, .zip of one file), in chunks that end with a line, or before a space.

    Line ends become line feeds; a byte order mark is removed. Raises DataError, with file and line, for bytes that are not
    text.
    """
    line, rest, length = 1, b"", 0
    try:
        most = max_unpacked_size(path)
        with open_text(path) as file:
            while True:
                block = file.read(CHUNK)
                length += len(block)
                if length > most:
                    raise DataError(f"{path} unpacks to more than {most:,} bytes; bring it unpacked if it is meant")
                chunk = rest + block
                cut = chunk.rfind(b"\n") + 1 or max(chunk.rfind(b" "), 0) if block else len(chunk)
                if len(chunk) - cut > MAX_WORD:
                    raise DataError(
                        f"{path}, line {line}, has {MAX_WORD:,} bytes without white space; bring it in lines"
                    )
                chunk, rest = chunk[:cut], chunk[cut:]
                if line == 1:
                    chunk = chunk.removeprefix(b"\xef\xbb\xbf")
                yield decode_utf8(chunk.replace(b"\r\n", b"\n"), path, line)
                line += chunk.count(b"\n")
                if not block:
                    return
    except (EOFError, zlib.error, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is cut off or damaged ({brief(error)}); bring it again") from None


def lines_of(path: Path) -> Iterator[str]:
    """The lines of such a file, without their line feeds."""
    rest = ""
    for text in text_chunks(path):
        *complete, rest = (rest + text).split("\n")
        yield from complete
    if rest:
        yield rest


def decode_utf8(text: bytes, path: Path, line: int) -> str:
    """Raises DataError with the line number, where `text` starts at `line`, for anything but UTF-8 without NUL bytes."""
    try:
        nul = text.find(b"\0")
        if nul < 0:
            return text.decode("utf-8")
        position, found = nul, "a NUL byte"
    except UnicodeDecodeError as error:
        position, found = error.start, "bytes that are not UTF-8"
    if line == 1 and text.startswith(UTF16):
        found = "UTF-16"
    line += text.count(b"\n", 0, position)
    raise DataError(f"{path}, line {line}, holds {found}; bring it as UTF-8 text")


def open_text(path: Path) -> Any:
    return open_zip(path) if path.suffix == ".zip" else open_unpacked(path)


def open_zip(path: Path) -> Any:
    """The one file of an archive, read in place: no name in an archive becomes a path."""
    try:
        archive = zipfile.ZipFile(path)
        entries = archive.infolist()
        if len(entries) != 1:
            raise DataError(f"{path} holds {len(entries)} files; bring an archive of one text")
        return archive.open(checked_entry(entries[0], path))
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a crafted archive can raise any
        raise DataError(f"{path} is cut off or damaged ({brief(error)}); bring it again") from None
