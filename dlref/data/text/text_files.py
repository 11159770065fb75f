"""Files of text as ids: encoded once into memory-mapped files, which are found again by content and settings."""

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
from dlref.data.safe_io import PIECE, UTF16, room, unpackable, unpacked
from dlref.data.text.token_cache import cached
from dlref.data.text.tokenizer import END, UNKNOWN, Level, Tokenizer, Vocabulary, learn_bpe, sentencepiece_version
from dlref.errors import CheckpointError, ConfigError, DataError, brief

LONGEST = 2**26  # bytes of a word
FORMAT = 1  # of the cache; a new one where the same settings would give other ids


class Encoded(NamedTuple):
    """Splits of consecutive ids, and what the ids stand for."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    splits: dict[str, Tensor]  # [N] int32, memory-mapped


def encode(
    files: Mapping[str, Path],
    level: Level,
    minimum: int = 1,
    maximum: int | None = None,
    pieces: int = 8000,
    shares: Mapping[str, float] | None = None,
) -> Encoded:
    """The files by split as ids; the vocabulary is that of `train`.

    Words seen less than `minimum` times are `<unk>`, and `maximum` limits the vocabulary; with `bpe` there are `pieces`, and
    nothing is `<unk>`.
    `shares` cuts further splits, the first one last, off the end of `train`. Raises DataError for a file that is missing,
    empty, broken or no text; ConfigError for numbers that make no sense.
    """
    if minimum < 1 or (maximum is not None and maximum < 3):
        raise ConfigError(f"data.minimum is {minimum}, 1 or more, and maximum {maximum}, 3 or more")
    settings: dict[str, Any] = {
        "format": FORMAT,
        "level": level,
        "minimum": minimum,
        "maximum": maximum,
        "shares": dict(shares or {}),
    }
    if level == "bpe":  # all pieces are in the vocabulary
        settings |= {"minimum": None, "maximum": None, "pieces": pieces, "sentencepiece": sentencepiece_version()}
    contents = {split: digest(path) for split, path in files.items()}
    return cached([settings, contents], lambda folder: build(folder, files, settings), load)


def digest(path: Path) -> str:
    try:
        room(path)  # there is none for a pipe or a device, which may never end
        return sha256(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); bring a text, plain or as .gz") from None


def load(folder: Path) -> Encoded | None:
    """What `build` wrote, or None where it is not there or not whole."""
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
    """Two passes: all tokens numbered as they come, then by the order of the vocabulary."""
    level: Level = settings["level"]
    model = None
    if level == "bpe":
        share = 1 - sum(settings["shares"].values())
        if not any(map(str.strip, beginning(files["train"], share))):  # which sentencepiece would say in another way
            raise DataError(f"{files['train']} holds no text to train on; bring another one for data.train")
        model = learn_bpe(beginning(files["train"], share), settings["pieces"])
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
    for split, share in settings["shares"].items():
        start = max(stop - math.ceil(share * lengths["train"]), 0)
        parts[split], stop = ("train", start, stop), start
    parts["train"] = ("train", 0, stop)
    order = list(numbers)
    counts = np.zeros(len(order), np.int64)
    for piece in read_numbers(folder / "train", 0, stop):
        counts += np.bincount(piece, minlength=len(order))
    seen = {word: int(count) for word, count in zip(order, counts, strict=True) if count}
    vocabulary = Vocabulary.of_text(tokenizer, seen, settings["minimum"], [UNKNOWN, END], settings["maximum"])
    ids = np.array(vocabulary.lookup_indices(order), np.int32)
    for split, (file, start, stop) in parts.items():
        with open(folder / f"{split}.int32", "wb") as out:
            for piece in read_numbers(folder / file, start, stop):
                ids.take(piece).tofile(out)
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


def beginning(path: Path, share: float) -> Iterator[str]:
    """The lines of a text that begin within this share of its characters."""
    left = share * sum(map(len, texts(path)))
    for text in texts(path):
        for line in text.split("\n"):
            if left <= 0:
                return
            left -= len(line) + 1
            yield line


def write_numbers(out: Path, path: Path, tokenizer: Tokenizer, numbers: Mapping[str, int]) -> int:
    """The tokens of a file by number, as int32, new ones numbered on; how many there are."""
    length, begins = 0, True
    with open(out, "wb") as file:
        for text in texts(path):
            tokens = tokenizer(text, begins)
            begins = text.endswith("\n") or (begins and not text)
            np.fromiter(map(numbers.__getitem__, tokens), np.int32, len(tokens)).tofile(file)
            length += len(tokens)
    return length


def read_numbers(path: Path, start: int, stop: int) -> Iterator[np.ndarray]:
    """Read rather than memory-mapped: Windows removes no file that is mapped."""
    with open(path, "rb") as file:
        file.seek(4 * start)
        for place in range(start, stop, PIECE):
            yield np.fromfile(file, np.int32, min(PIECE, stop - place))


def texts(path: Path) -> Iterator[str]:
    """A UTF-8 file, plain or compressed (.gz, .zip of one file), in pieces that end with a line, or before a space.

    Line ends are line feeds in what is yielded; a byte order mark is left out. Raises DataError, with file and line, for
    bytes that are no text.
    """
    line, rest, length = 1, b"", 0
    try:
        most = room(path)
        with opened(path) as file:
            while True:
                block = file.read(PIECE)
                length += len(block)
                if length > most:
                    raise DataError(f"{path} unpacks to more than {most:,} bytes; bring it unpacked if it is meant")
                whole = rest + block
                cut = whole.rfind(b"\n") + 1 or max(whole.rfind(b" "), 0) if block else len(whole)
                if len(whole) - cut > LONGEST:
                    raise DataError(
                        f"{path}, line {line}, has {LONGEST:,} bytes without white space; bring it in lines"
                    )
                whole, rest = whole[:cut], whole[cut:]
                if line == 1:
                    whole = whole.removeprefix(b"\xef\xbb\xbf")
                yield decoded(whole.replace(b"\r\n", b"\n"), path, line)
                line += whole.count(b"\n")
                if not block:
                    return
    except (EOFError, zlib.error, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is cut off or damaged ({brief(error)}); bring it again") from None


def lines_of(path: Path) -> Iterator[str]:
    """The lines of such a file, without their ends."""
    rest = ""
    for text in texts(path):
        *whole, rest = (rest + text).split("\n")
        yield from whole
    if rest:
        yield rest


def decoded(text: bytes, path: Path, line: int) -> str:
    try:
        nul = text.find(b"\0")
        if nul < 0:
            return text.decode("utf-8")
        place, what = nul, "a NUL byte"
    except UnicodeDecodeError as error:
        place, what = error.start, "bytes that are not UTF-8"
    if line == 1 and text.startswith(UTF16):
        what = "UTF-16"
    line += text.count(b"\n", 0, place)
    raise DataError(f"{path}, line {line}, holds {what}; bring it as UTF-8 text")


def opened(path: Path) -> Any:
    return opened_member(path) if path.suffix == ".zip" else unpacked(path)


def opened_member(path: Path) -> Any:
    """The one file of an archive, read where it lies: no name in an archive becomes a path."""
    try:
        archive = zipfile.ZipFile(path)
        entries = archive.infolist()
        if len(entries) != 1:
            raise DataError(f"{path} holds {len(entries)} files; bring an archive of one text")
        return archive.open(unpackable(entries[0], path))
    except (DataError, MemoryError):
        raise
    except Exception as error:  # which one a crafted archive raises is anybody's guess
        raise DataError(f"{path} is cut off or damaged ({brief(error)}); bring it again") from None
