"""Pairs of lines, and their ids, as a few arrays, which may be kept in files and memory-mapped."""

import itertools
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch

from dlref.data.text.line_encoder import Lines, Side, blocks
from dlref.data.text.text_files import FORMAT
from dlref.errors import CheckpointError, DataError


class Texts(Sequence[str]):
    """Lines of text as the bytes of all of them, one behind the other, and where each ends."""

    def __init__(self, utf8: np.ndarray, ends: np.ndarray) -> None:
        self.utf8, self.ends = utf8, ends  # [N] uint8, [L] int64

    @classmethod
    def of(cls, lines: Iterable[str]) -> "Texts":
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
        return itertools.chain.from_iterable(blocks(self))

    def select(self, rows: np.ndarray) -> "Texts":  # [L] bool
        """These lines alone."""
        sizes = np.diff(self.ends, prepend=0)
        return Texts(self.utf8[np.repeat(rows, sizes)], sizes[rows].cumsum())


class Split(NamedTuple):
    """Sources and targets, as they were read and as ids."""

    texts: tuple[Texts, Texts]
    lines: tuple[Lines, Lines]


class EncodedPairs(NamedTuple):
    source: Side
    target: Side
    splits: dict[str, Split]
    messages: list[str]  # which pairs were left out, and which occur in several splits


def save(folder: Path, pairs: EncodedPairs) -> None:
    """What `load` reads."""
    for split, (texts, lines) in pairs.splits.items():
        for side, text, ids in zip(("source", "target"), texts, lines, strict=True):
            arrays = {
                "utf8": text.utf8,
                "ends": text.ends,
                "ids": ids.ids.numpy(),
                "lengths": ids.lengths.numpy(),
            }
            for name, array_of in arrays.items():
                with open(folder / f"{split}.{side}.{name}.npy", "wb") as file:
                    np.save(file, array_of, allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())  # or a power cut could leave a file of the right length without its content
    about = {"format": FORMAT, "source": pairs.source.describe(), "messages": pairs.messages, "splits": [*pairs.splits]}
    if pairs.target is not pairs.source:
        about["target"] = pairs.target.describe()
    (folder / "about.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def load(folder: Path) -> EncodedPairs | None:
    """What `save` wrote, memory-mapped, or None where it is not there or not whole."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        source = Side.described(about["source"])
        target = Side.described(about["target"]) if "target" in about else source
        splits = {}
        for split in about["splits"]:
            texts, lines = [], []
            for side in ("source", "target"):
                names = (folder / f"{split}.{side}.{name}.npy" for name in ("utf8", "ends", "ids", "lengths"))
                utf8, ends, ids, lengths = (np.load(name, mmap_mode="c", allow_pickle=False) for name in names)
                if len(ends) != len(lengths) or len(utf8) != (ends[-1] if len(ends) else 0):
                    return None
                texts.append(Texts(utf8, ends))
                lines.append(Lines.packed(torch.from_numpy(ids), torch.from_numpy(lengths)))
            splits[split] = Split((texts[0], texts[1]), (lines[0], lines[1]))
        return EncodedPairs(source, target, splits, about["messages"])
    except (CheckpointError, DataError, OSError, ValueError, LookupError, TypeError, AttributeError, EOFError):
        return None
