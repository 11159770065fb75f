"""Text that a language model writes, to read along as it learns."""

import itertools
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from dlref.data import generator
from dlref.data.text.tokenizer import END, UNKNOWN, Tokenizer, Vocabulary
from dlref.decoding.sampling import check, generate
from dlref.hardware import device_and_dtype
from dlref.interfaces import TextDecoder, TokenizedText, declares
from dlref.reports import Report

WIDTH = 100  # letters a line
PART = "\N{REPLACEMENT CHARACTER}"  # stands for bytes that are no character, or not yet


def written(
    net: Any, tokenizer: Tokenizer, vocabulary: Vocabulary, prompt: str, unknown: bool = False, **settings: Any
) -> Iterator[str]:
    """A prompt as the network reads it, and how it goes on, in pieces that come as they are written.

    An empty prompt stands for the end of a line, after which a new one begins. `<unk>` is what the vocabulary lacks, and
    is written only if `unknown`. `settings` are those of `generate`.
    """
    ids = vocabulary.lookup_indices(tokenizer(prompt))
    context = ids or vocabulary.lookup_indices(tokenizer("\n"))
    # The line feed ends a line of characters, and an <eos> in their vocabulary has never been seen.
    never = ([] if unknown else [UNKNOWN]) + ([] if tokenizer("\n") == [END] else [END])
    forbidden = [vocabulary[word] for word in never if word in vocabulary]
    read = torch.tensor([context], device=device_and_dtype(net)[0])
    with torch.no_grad():
        state = net.prefill(read[:, :-1])
    tokens = generate(net, state, read[:, -1], forbidden=forbidden, **settings)
    return joined(tokenizer, map(vocabulary.lookup_token, itertools.chain(ids, (int(token) for token in tokens))))


def joined(tokenizer: Tokenizer, tokens: Iterable[str]) -> Iterator[str]:
    """`tokenizer.join(tokens)` in pieces, each as soon as it is certain.

    White space waits for what comes after it, and the first bytes of a character for the others.
    """
    line: list[str] = []  # the last token to be seen and what has followed; what came before has no more effect
    told = 0
    for token in tokens:
        line.append(token)
        text = tokenizer.join(line)
        if len(text) > told and not text.endswith(PART):
            yield text[told:]
            line = [token]
            told = len(tokenizer.join(line))
    if rest := tokenizer.join(line)[told:]:
        yield rest


class Samples(Report):
    """`length` tokens after each of the `prompts`, or one text from the beginning of a line; the same draws each time."""

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
        check(length, temperature, top_k, top_p)
        self.settings: dict[str, Any] = {"length": length, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        self.prompts, self.seed = prompts or [""], seed

    def __call__(self, net: nn.Module, data: Any, split: str) -> dict[str, Any]:
        if not declares(net, TextDecoder) or not declares(data, TokenizedText):
            return {}
        texts = []
        for number, prompt in enumerate(self.prompts):
            draw = generator(self.seed, number)
            text = "".join(written(net, data.tokenizer, data.vocabulary, prompt, generator=draw, **self.settings))
            texts.append("\n".join(map(folded, text.split("\n"))))
        # TensorBoard reads Markdown, in which lines that stand farther in stay as they are.
        return {"sample": textwrap.indent("\n\n".join(texts), "    ")}


def folded(line: str) -> str:
    return textwrap.fill(line, WIDTH, expand_tabs=False, replace_whitespace=False)
