"""Sample text from a language model, to follow what it learns."""

import textwrap
from collections.abc import Sequence
from typing import Any

from torch import nn

from dlref.data import generator
from dlref.decoding.sampling import check_sampling
from dlref.decoding.text import generate_text
from dlref.interfaces import Data, TextDecoder, TokenizedText, declares
from dlref.reports import Report

WIDTH = 100  # characters a line


class Samples(Report):
    """Generated text: `length` tokens after each of the `prompts`, or one text from the beginning of a line.

    The `seed` alone decides the random numbers, so that samples of different steps can be compared.
    """

    while_training = True

    def __init__(
        self,
        length: int = 100,
        prompts: Sequence[str] = (),
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> None:
        check_sampling(length, temperature, top_k, top_p)
        self.settings: dict[str, Any] = {"length": length, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        self.prompts, self.seed = prompts or [""], seed

    def __call__(self, net: nn.Module, data: Data, split: str) -> dict[str, str]:
        if not declares(net, TextDecoder) or not declares(data, TokenizedText):
            return {}
        texts = []
        for number, prompt in enumerate(self.prompts):
            settings = self.settings | {"generator": generator(self.seed, number)}
            text = "".join(generate_text(net, data.tokenizer, data.vocabulary, prompt, **settings))
            texts.append("\n".join(map(wrapped, text.split("\n"))))
        # TensorBoard renders Markdown, which shows indented lines as they are.
        return {"sample": textwrap.indent("\n\n".join(texts), "    ")}


def wrapped(line: str) -> str:
    return textwrap.fill(line, WIDTH, expand_tabs=False, replace_whitespace=False)
