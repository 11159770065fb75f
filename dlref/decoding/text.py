"""Text generation by a language model: a prompt in, a stream of text out."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from dlref.decoding.sampling import generate
from dlref.hardware import device_and_dtype
from dlref.interfaces import TextDecoder, TextTokenizer, TokenIds

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # stands for bytes that are no character, or not yet


def generate_text(
    net: TextDecoder,
    tokenizer: TextTokenizer,
    vocabulary: TokenIds,
    prompt: str,
    unknown: bool = False,
    **settings: Any,
) -> Iterator[str]:
    """The prompt as the network reads it, and its continuation, as a stream of strings.

    An empty prompt stands for the end of a line, after which a new line begins. `<unk>` is generated only if `unknown`.
    `settings` are those of `generate`.
    """
    assert isinstance(net, nn.Module)
    prompt_ids = vocabulary.lookup_indices(tokenizer(prompt))
    line_end = vocabulary.lookup_indices(tokenizer("\n"))
    forbidden = [] if unknown else [vocabulary.unknown]
    if vocabulary.end is not None and vocabulary.end not in line_end:
        forbidden.append(vocabulary.end)  # lines of characters end with a line feed, and training has never seen <eos>
    context = torch.tensor([prompt_ids or line_end], device=device_and_dtype(net)[0])
    with torch.no_grad():
        state = net.prefill(context[:, :-1])
    continuation = (int(token) for token in generate(net, state, context[:, -1], forbidden=forbidden, **settings))
    return detokenize(tokenizer, map(vocabulary.lookup_token, itertools.chain(prompt_ids, continuation)))


def detokenize(tokenizer: TextTokenizer, tokens: Iterable[str]) -> Iterator[str]:
    """`tokenizer.join(tokens)` as a stream of strings, each as soon as it is certain.

    White space waits for the next token, and the first bytes of a character for its last.
    """
    pending: list[str] = []  # the last token of the text so far and those after it; earlier ones have no more effect
    yielded = 0
    for token in tokens:
        pending.append(token)
        text = tokenizer.join(pending)
        if len(text) > yielded and not text.endswith(INCOMPLETE):
            yield text[yielded:]
            pending = [token]
            yielded = len(tokenizer.join(pending))
    if rest := tokenizer.join(pending)[yielded:]:
        yield rest
