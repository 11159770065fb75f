"""Slices of real texts."""

from pathlib import Path

from torch import Tensor

from dlref.data.text.corpora import TextFiles


def treebank(datasets: Path, folder: Path, sentences: int, minimum: int = 1) -> TextFiles:
    """The first sentences of the Penn Treebank, all for training."""
    lines = (datasets / "ptb" / "ptb.train.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    path = folder / "treebank.txt"
    path.write_text("".join(lines[:sentences]), encoding="utf-8")
    return TextFiles(path, min_freq=minimum, eval_share=0.0, test_share=0.0)


def parts(data: TextFiles) -> list[Tensor]:
    """The training text as `Objective.fit` gets it, though in more parts; n-grams and windows reach over their borders."""
    return [part.long() for part in data.split("train").split(700)]
