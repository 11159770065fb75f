"""Slices of real texts."""

from pathlib import Path

from dlref.data.corpora import TextFiles


def treebank(datasets: Path, folder: Path, sentences: int, minimum: int = 1) -> TextFiles:
    """The first sentences of the Penn Treebank, all for training."""
    lines = (datasets / "ptb" / "ptb.train.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    path = folder / "treebank.txt"
    path.write_text("".join(lines[:sentences]), encoding="utf-8")
    return TextFiles(path, minimum=minimum, eval_share=0.0, test_share=0.0)
