"""The English of Python's own help topics, which every Python brings along: a small text that needs no download."""

import re
from collections import Counter

import torch

from dlref.data.text.token_streams import LanguageModelText, Order
from dlref.data.text.tokenizer import END, UNKNOWN, Tokenizer, Vocabulary
from dlref.errors import ConfigError


class PythonDocs(LanguageModelText):
    """`pydoc_data.topics` in paragraphs, each distinct one once: some 50,000 words (more or fewer by Python version).

    Of every 20 paragraphs in a row the 19th is `eval` and the 20th `test`. Words seen less than `minimum` times in the
    training split are `<unk>`; a paragraph ends with `<eos>`.
    """

    def __init__(
        self,
        minimum: int = 2,
        batch_size: int = 20,
        length: int = 35,
        eval_columns: int = 1,
        order: Order = "fixed",
        eval_stride: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, length, eval_columns, order, seed, eval_stride)
        if minimum < 1:
            raise ConfigError(f"data.minimum is {minimum}; it takes 1 or more")
        from pydoc_data.topics import topics

        self.tokenizer = Tokenizer("english")
        texts = [" ".join(part.split()) for _, topic in sorted(topics.items()) for part in re.split(r"\n\s*\n", topic)]
        paragraphs = [words for part in dict.fromkeys(texts) if len(words := self.tokenizer(part)) > 3]
        parts: dict[str, list[str]] = {"train": [], "eval": [], "test": []}
        for number, words in enumerate(paragraphs):
            parts[{18: "eval", 19: "test"}.get(number % 20, "train")] += [*words, END]
        self.vocabulary = Vocabulary.of_text(self.tokenizer, Counter(parts["train"]), minimum, [UNKNOWN, END])
        self.splits = {split: torch.tensor(self.vocabulary.lookup_indices(words)) for split, words in parts.items()}
