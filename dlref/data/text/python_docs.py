"""The English of Python's own help topics, which come with every Python: a small text that needs no download."""

import re
from collections import Counter
from dataclasses import dataclass

import torch

from dlref.data.text.token_streams import LanguageModelText
from dlref.data.text.tokenizer import END, UNKNOWN, Tokenizer, Vocabulary
from dlref.errors import ConfigError


@dataclass(eq=False)
class PythonDocs(LanguageModelText):
    """The paragraphs of `pydoc_data.topics`, without duplicates: some 50,000 words, depending on the Python version.

    Of every 20 consecutive paragraphs the 19th is `eval` and the 20th `test`. Words that occur less than `min_freq` times
    in the training split are `<unk>`; a paragraph ends with `<eos>`.
    """

    min_freq: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_freq < 1:
            raise ConfigError(f"data.min_freq is {self.min_freq}; it takes 1 or more")
        from pydoc_data.topics import topics

        self.tokenizer = Tokenizer("english")
        texts = [" ".join(part.split()) for _, topic in sorted(topics.items()) for part in re.split(r"\n\s*\n", topic)]
        paragraphs = [words for text in dict.fromkeys(texts) if len(words := self.tokenizer(text)) > 3]
        tokens: dict[str, list[str]] = {"train": [], "eval": [], "test": []}
        for number, words in enumerate(paragraphs):
            tokens[{18: "eval", 19: "test"}.get(number % 20, "train")] += [*words, END]
        self.vocabulary = Vocabulary.of_text(self.tokenizer, Counter(tokens["train"]), self.min_freq, [UNKNOWN, END])
        self.splits = {split: torch.tensor(self.vocabulary.lookup_indices(words)) for split, words in tokens.items()}
