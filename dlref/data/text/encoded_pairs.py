"""Pairs of lines and their token ids as a few arrays, which can be saved and memory-mapped."""

import itertools
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch

from dlref.data.text.line_encoder import EncodedLines, LineEncoder, chunks
from dlref.data.text.text_files import FORMAT
from dlref.errors import CheckpointError, DataError


class TextLines(Sequence[str]):
    """Lines of text, stored as their concatenated UTF-8 bytes and the end of each."""

    def __init__(self, utf8: np.ndarray, ends: np.ndarray) -> None:
        self.utf8, self.ends = utf8, ends  # [N] uint8, [L] int64

    @classmethod
    def of(cls, lines: Iterable[str]) -> "TextLines":
        utf8, ends = bytearray(), array("q")
        for line in lines:
            utf8 += line.encode()
            ends.append(len(utf8))
        return cls(np.array(utf8, np.uint8), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        numbers = range(len(self))[index]
        if isinstance(numbers, int):
            return self[numbers : numbers + 1][0]
        if numbers.step != 1:
            return [self[number] for number in numbers]
        begin = int(self.ends[numbers.start - 1]) if numbers.start else 0
        ends = [0, *(self.ends[numbers.start : numbers.stop] - begin).tolist()]
        utf8 = self.utf8[begin : begin + ends[-1]].tobytes()
        return [utf8[start:stop].decode() for start, stop in itertools.pairwise(ends)]

    def __iter__(self) -> Iterator[str]:
        return itertools.chain.from_iterable(chunks(self))

    def select(self, rows: np.ndarray) -> "TextLines":  # [L] bool
        """Only these lines."""
        sizes = np.diff(self.ends, prepend=0)
        return TextLines(self.utf8[np.repeat(rows, sizes)], sizes[rows].cumsum())


class ParallelSplit(NamedTuple):
    """Sources and targets, as text and as token ids."""

    texts: tuple[TextLines, TextLines]
    lines: tuple[EncodedLines, EncodedLines]


class EncodedPairs(NamedTuple):
    """The pairs of each split, with the encoders of sources and targets."""

    source: LineEncoder
    target: LineEncoder
    splits: dict[str, ParallelSplit]
    messages: list[str]  # how many pairs were left out, and how many sources occur in several splits


def save(folder: Path, pairs: EncodedPairs) -> None:
    """Write the arrays that `load` reads."""
    for split, (texts, lines) in pairs.splits.items():
        for language, text, encoded in zip(("source", "target"), texts, lines, strict=True):
            arrays = {
                "utf8": text.utf8,
                "ends": text.ends,
                "ids": encoded.ids.numpy(),
                "lengths": encoded.lengths.numpy(),
            }
            for name, values in arrays.items():
                with open(folder / f"{split}.{language}.{name}.npy", "wb") as file:
                    np.save(file, values, allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())  # or a power cut could leave a file of the right length without its content
    about = {"format": FORMAT, "source": pairs.source.describe(), "messages": pairs.messages, "splits": [*pairs.splits]}
    if pairs.target is not pairs.source:
        about["target"] = pairs.target.describe()
    (folder / "about.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def load(folder: Path) -> EncodedPairs | None:
    """What `save` wrote, memory-mapped, or None where it is missing or incomplete."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        source = LineEncoder.described(about["source"])
        target = LineEncoder.described(about["target"]) if "target" in about else source
        splits = {}
        for split in about["splits"]:
            texts, lines = [], []
            for language in ("source", "target"):
                names = (folder / f"{split}.{language}.{name}.npy" for name in ("utf8", "ends", "ids", "lengths"))
                utf8, ends, ids, lengths = (np.load(name, mmap_mode="c", allow_pickle=False) for name in names)
                if len(ends) != len(lengths) or len(utf8) != (ends[-1] if len(ends) else 0):
                    return None
                texts.append(TextLines(utf8, ends))
                lines.append(EncodedLines.packed(torch.from_numpy(ids), torch.from_numpy(lengths)))
            splits[split] = ParallelSplit((texts[0], texts[1]), (lines[0], lines[1]))
        return EncodedPairs(source, target, splits, about["messages"])
    except (CheckpointError, DataError, OSError, ValueError, LookupError, TypeError, AttributeError, EOFError):
        return None
