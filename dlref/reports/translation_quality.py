"""Translations, and how near they come to what people have written."""

import logging
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dlref.data.text.tokenizer import BEGIN, END, PAD, UNKNOWN, Tokenizer
from dlref.decoding.sampling import PENALTY, beam_search, check_beam, generate
from dlref.errors import ConfigError
from dlref.hardware import device_and_dtype
from dlref.interfaces import FixedContext, ParallelData, Seq2SeqDecoder, declares
from dlref.reports import Report

LETTERS = 200_000  # most that a batch reads, padding included: a line of a megabyte is read by itself
WIDTH = 100  # letters a line

logger = logging.getLogger("dlref")


def translates(net: Any, data: Any) -> bool:
    return declares(net, Seq2SeqDecoder) and declares(data, ParallelData)


def context_of(net: Any) -> int:
    """How many tokens the network reads at most."""
    return net.context if declares(net, FixedContext) else sys.maxsize


def written(net: Any, source: Any, target: Any, lines: Sequence[str], **settings: Any) -> list[list[int]]:
    """The ids that are written for each of the lines, as one batch; `settings` are those of `write`."""
    found, cut = write(net, source, target, lines, **settings)
    tell(cut, len(lines), net)
    return found


@torch.no_grad()
def write(
    net: Any,
    source: Any,
    target: Any,
    lines: Sequence[str],
    beam: int = 1,
    penalty: float = PENALTY,
    limit: int | None = None,
    unknown: bool = False,
) -> tuple[list[list[int]], list[int]]:
    """The ids that are written for each of the lines, as one batch: up to `<eos>`, or `limit` of them. And how many tokens
    those lines have that were too long for the network.

    Without a limit, a line may become twice as many tokens as it has, and ten. `<unk>` is written only if `unknown`. A
    network with a `FixedContext` reads and writes no more tokens than that: of a longer line the first ones, and `<eos>`.
    """
    ids, visible = (part.to(device_and_dtype(net)[0]) for part in source.encode(lines))
    words, lengths, context = target.vocabulary, visible.sum(1), context_of(net)
    forbidden = [words[word] for word in ([PAD, BEGIN] if unknown else [PAD, BEGIN, UNKNOWN])]
    limits = (2 * lengths + 10 if limit is None else torch.full_like(lengths, limit)).clamp(max=context)
    ids, visible, cut = ids[:, :context], visible[:, :context], lengths > context
    ids[cut, -1] = source.vocabulary[END]
    state, token = net.prefill(ids, visible), torch.full_like(ids[:, 0], words[BEGIN])
    if beam == 1:
        longest = int(limits.max())
        tokens = [*generate(net, state, token, longest, temperature=0, forbidden=forbidden, stop=words[END])]
        found = torch.stack(tokens, dim=1)
    else:
        found, _ = beam_search(net, state, token, limits, beam, words[END], penalty, forbidden)
    rows = [row[:most] for row, most in zip(found.tolist(), limits.tolist(), strict=True)]
    return [row[: row.index(words[END]) + 1] if words[END] in row else row for row in rows], lengths[cut].tolist()


def tell(cut: Sequence[int], lines: int, net: Any) -> None:
    """A warning of the lines that were cut, which had so many tokens."""
    if cut:
        what = f"{len(cut):,} of {lines:,} lines are longer than the network's context of {net.context:,} tokens"
        logger.warning("%s, up to %s with their ends; what is too much of them is left out", what, f"{max(cut):,}")


def translated(
    net: Any, source: Any, target: Any, lines: Sequence[str], beam: int = 1, batch: int = 256, **settings: Any
) -> list[str]:
    """Each line's translation, in order; that of an empty one is empty.

    At most `batch` sequences are written at a time. `source` and `target` encode and decode, as `line_encoder.Side` does. The
    likeliest token is written always, or with `beam` above 1 the best sequence that a search of this width finds. `settings`
    are those of `write`.
    """
    texts, cut = [""] * len(lines), list[int]()
    # Lines of about one length end at about one time, and need little padding.
    left = sorted((number for number, line in enumerate(lines) if line.strip()), key=lambda number: len(lines[number]))
    while left:
        rows = max(1, min(batch, LETTERS // len(lines[left[-1]])) // beam)
        part, left[-rows:] = left[-rows:], []
        found, longer = write(net, source, target, [lines[number] for number in part], beam, **settings)
        cut += longer
        for number, ids in zip(part, found, strict=True):
            texts[number] = target.decode(ids)
    tell(cut, len(lines), net)
    return texts


def scores_of(texts: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Of a whole split, by sacrebleu (Post 2018), each from 0 to 100, and its signatures as a text `signatures`.

    `bleu` (Papineni et al. 2002) with its own tokeniser `13a`, letters as they are: what papers compare. `bleu_lower` of
    both sides cut by torchtext's `basic_english`, which also makes letters small, and then as before: what tutorials
    report. `chrf` (Popović 2015) of up to six letters. Raises ConfigError without sacrebleu.
    """
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise ConfigError("bleu and chrf need sacrebleu, which is not installed: pip install 'dlref[mt]'") from None
    cut = Tokenizer("english")
    small = [[" ".join(cut(line)) for line in lines] for lines in (texts, references)]
    # `force`: what is made of tokens has spaces before its full stops, and no warning is needed for each evaluation.
    bleu, lower, chrf = BLEU(force=True), BLEU(force=True, lowercase=True), CHRF()
    found: dict[str, Any] = {
        "bleu": bleu.corpus_score(texts, [references]).score,
        "bleu_lower": lower.corpus_score(small[0], [small[1]]).score,
        "chrf": chrf.corpus_score(texts, [references]).score,
    }
    signatures = [("bleu", bleu, ""), ("bleu_lower", lower, " of basic_english"), ("chrf", chrf, "")]
    lines = [f"    {name:<10} {metric.get_signature()}{what}" for name, metric, what in signatures]
    return found | {"signatures": "\n".join(lines)}


class Translation(Report):
    """Lines of a split translated by the likeliest token always, or by a `beam`: `exact_match`, the share of those that are
    their reference letter by letter, with `scores` also `bleu`, `bleu_lower` and `chrf`, and `samples` of them to read.

    While training, `limit` is how many of a split's first lines are translated, which is said once; of `test`, and by
    `dlref evaluate`, all are.
    """

    while_training = True
    told = False  # that lines are left out

    def __init__(
        self,
        beam: int = 1,
        penalty: float = PENALTY,
        samples: int = 5,
        limit: int | None = 500,
        scores: bool = False,
    ) -> None:
        check_beam(beam, penalty)
        if samples < 0 or (limit is not None and limit < 1):
            raise ConfigError(
                f"samples {samples} takes 0 or more, limit {limit} takes 1 or more lines, or null for all"
            )
        self.beam, self.penalty, self.samples, self.limit, self.scores = beam, penalty, samples, limit, scores

    def __call__(self, net: nn.Module, data: Any, split: str) -> dict[str, Any]:
        if not translates(net, data):
            return {}
        pairs = data.texts(split)
        if not pairs:
            return {}
        if not self.whole and split != "test" and self.limit is not None and len(pairs) > self.limit:
            if not self.told:
                said = "while training, the first %s of %s lines of %s are translated; dlref evaluate takes all of them"
                logger.info(said, f"{self.limit:,}", f"{len(pairs):,}", split)
            self.told, pairs = True, pairs[: self.limit]
        lines, references = [source for source, _ in pairs], [target for _, target in pairs]
        texts = translated(net, data.source, data.target, lines, self.beam, penalty=self.penalty)
        right = [text == reference for text, reference in zip(texts, references, strict=True)]
        found: dict[str, Any] = {"exact_match": sum(right) / len(right)}
        if self.scores:
            try:
                found |= scores_of(texts, references)
            except ConfigError as error:  # hours of training are worth more
                logger.warning("%s", error)
        if self.samples:
            shown = zip(lines[: self.samples], references, texts, strict=False)
            found["translations"] = "\n\n".join(compared(*each) for each in shown)
        return found


def compared(source: str, reference: str, text: str) -> str:
    """Below each other; TensorBoard reads Markdown, in which lines that stand farther in stay as they are."""
    named = {"source": source, "reference": reference, "written": text}
    return "\n".join(
        textwrap.fill(line, WIDTH, initial_indent=f"    {name:<10} ", subsequent_indent=" " * 15) or f"    {name}"
        for name, line in named.items()
    )
