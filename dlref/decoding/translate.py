"""Translation of lines of text, by greedy decoding or beam search.

B batch, S source tokens, T target tokens.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dlref.decoding.beam_search import LENGTH_PENALTY, beam_search
from dlref.decoding.sampling import generate
from dlref.hardware import device_and_dtype
from dlref.interfaces import FixedContext, LineCodec, Seq2SeqDecoder, declares

MAX_CHARACTERS = 200_000  # of a batch, padding included: a line of a megabyte is a batch by itself

logger = logging.getLogger("dlref")


def context_length(net: object) -> int:
    """The most tokens that the network can read."""
    return net.context if declares(net, FixedContext) else sys.maxsize


@torch.no_grad()
def translate_batch(
    net: Seq2SeqDecoder,
    source: LineCodec,
    target: LineCodec,
    lines: Sequence[str],
    beam: int = 1,
    length_penalty: float = LENGTH_PENALTY,
    max_len: int | None = None,
    unknown: bool = False,
) -> tuple[list[list[int]], list[int]]:
    """Target ids of each line, translated as one batch, and the lengths of the lines that had to be truncated.

    A translation ends with `<eos>` or after `max_len` tokens, by default twice as many as the line has, and ten. `<unk>` is
    generated only if `unknown`. A network with a `FixedContext` reads and generates no more tokens than its context: a
    longer line is truncated and ends with `<eos>`. Greedy decoding with a `beam` of 1, else beam search of this width.
    """
    assert isinstance(net, nn.Module)
    context = context_length(net)
    ids, visible = (part.to(device_and_dtype(net)[0]) for part in source.encode(lines))  # [B, S]
    lengths = visible.sum(1)
    limits = (2 * lengths + 10 if max_len is None else torch.full_like(lengths, max_len)).clamp(max=context)
    ids, visible, too_long = ids[:, :context], visible[:, :context], lengths > context
    ids[too_long, -1] = source.end
    forbidden = [target.pad, target.begin] if unknown else [target.pad, target.begin, target.unknown]
    state, token = net.prefill(ids, visible), torch.full_like(ids[:, 0], target.begin)
    if beam == 1:
        tokens = generate(net, state, token, int(limits.max()), temperature=0, forbidden=forbidden, eos=target.end)
        output = torch.stack([*tokens], dim=1)  # [B, T]
    else:
        output, _ = beam_search(net, state, token, limits, beam, target.end, length_penalty, forbidden)
    rows = [row[:limit] for row, limit in zip(output.tolist(), limits.tolist(), strict=True)]
    rows = [row[: row.index(target.end) + 1] if target.end in row else row for row in rows]
    return rows, lengths[too_long].tolist()


def translate_lines(
    net: Seq2SeqDecoder,
    source: LineCodec,
    target: LineCodec,
    lines: Sequence[str],
    beam: int = 1,
    batch_size: int = 256,
    **settings: Any,
) -> list[str]:
    """The translation of each line, in order; that of an empty line is empty.

    At most `batch_size` hypotheses are decoded at a time. `settings` are those of `translate_batch`. Lines longer than the
    network's context are truncated, with one warning.
    """
    texts, truncated = [""] * len(lines), list[int]()
    # Lines of similar length end at a similar time, and need little padding.
    left = sorted((i for i, line in enumerate(lines) if line.strip()), key=lambda i: len(lines[i]))
    while left:
        rows = max(1, min(batch_size, MAX_CHARACTERS // len(lines[left[-1]])) // beam)
        batch, left[-rows:] = left[-rows:], []
        output, too_long = translate_batch(net, source, target, [lines[i] for i in batch], beam, **settings)
        truncated += too_long
        for i, ids in zip(batch, output, strict=True):
            texts[i] = target.decode(ids)
    if truncated:
        logger.warning(
            "%s of %s lines are longer than the network's context of %s tokens, up to %s with their ends; the rest of them "
            "is left out",
            *(f"{count:,}" for count in (len(truncated), len(lines), context_length(net), max(truncated))),
        )
    return texts
