"""Quality of translations: exact match, BLEU and chrF."""

import logging
import textwrap
from collections.abc import Sequence
from typing import Any

from torch import nn

from dlref.data.text.tokenizer import Tokenizer
from dlref.decoding.beam_search import LENGTH_PENALTY, check_beam
from dlref.decoding.translate import translate_lines
from dlref.errors import ConfigError
from dlref.interfaces import Data, ParallelData, Seq2SeqDecoder, declares
from dlref.reports import Report

WIDTH = 100  # characters a line

logger = logging.getLogger("dlref")


def corpus_scores(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[dict[str, float], str]:
    """BLEU and chrF of a whole split by sacrebleu (Post 2018), each from 0 to 100, and sacrebleu's signatures as text.

    `bleu` (Papineni et al. 2002) is case-sensitive, with sacrebleu's own tokenizer `13a`: what papers compare. `bleu_lower`
    is the same after torchtext's `basic_english`, which also lower-cases, on both sides: what tutorials report. `chrf`
    (Popović 2015) counts n-grams of up to six characters. Raises ConfigError without sacrebleu.
    """
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise ConfigError("bleu and chrf need sacrebleu, which is not installed: pip install 'dlref[mt]'") from None
    tokenizer = Tokenizer("english")
    lower = [[" ".join(tokenizer(line)) for line in lines] for lines in (hypotheses, references)]
    # `force`: tokenized text has spaces before its full stops, and no warning is needed at each evaluation.
    bleu, bleu_lower, chrf = BLEU(force=True), BLEU(force=True, lowercase=True), CHRF()
    scores = {
        "bleu": bleu.corpus_score(hypotheses, [references]).score,
        "bleu_lower": bleu_lower.corpus_score(lower[0], [lower[1]]).score,
        "chrf": chrf.corpus_score(hypotheses, [references]).score,
    }
    signatures = [("bleu", bleu, ""), ("bleu_lower", bleu_lower, " of basic_english"), ("chrf", chrf, "")]
    return scores, "\n".join(f"    {name:<10} {metric.get_signature()}{of}" for name, metric, of in signatures)


class TranslationQuality(Report):
    """Translations of a split by greedy decoding, or by beam search with a `beam` above 1.

    `exact_match` is the fraction of lines that equal their reference, character by character; with `bleu` also `bleu`,
    `bleu_lower` and `chrf`. The first `samples` translations are shown as text. Evaluations during training translate only
    the first `max_lines` of a split other than `test`, which is logged once; `dlref evaluate` translates all lines.
    """

    while_training = True
    limit_logged = False

    def __init__(
        self,
        beam: int = 1,
        length_penalty: float = LENGTH_PENALTY,
        samples: int = 5,
        max_lines: int | None = 500,
        bleu: bool = False,
    ) -> None:
        check_beam(beam, length_penalty)
        if samples < 0 or (max_lines is not None and max_lines < 1):
            raise ConfigError(
                f"samples {samples} takes 0 or more, max_lines {max_lines} takes 1 or more, or null for all lines"
            )
        self.beam, self.length_penalty = beam, length_penalty
        self.samples, self.max_lines, self.bleu = samples, max_lines, bleu

    def __call__(self, net: nn.Module, data: Data, split: str) -> dict[str, float | str]:
        if not declares(net, Seq2SeqDecoder) or not declares(data, ParallelData):
            return {}
        pairs = data.texts(split)
        if not pairs:
            return {}
        if not self.full_split and split != "test" and self.max_lines is not None and len(pairs) > self.max_lines:
            if not self.limit_logged:
                message = (
                    "during training, the first %s of %s lines of %s are translated; dlref evaluate translates all"
                )
                logger.info(message, f"{self.max_lines:,}", f"{len(pairs):,}", split)
            self.limit_logged, pairs = True, pairs[: self.max_lines]
        lines, references = [source for source, _ in pairs], [target for _, target in pairs]
        settings: dict[str, Any] = {"beam": self.beam, "length_penalty": self.length_penalty}
        hypotheses = translate_lines(net, data.source, data.target, lines, **settings)
        exact = [hypothesis == reference for hypothesis, reference in zip(hypotheses, references, strict=True)]
        results: dict[str, float | str] = {"exact_match": sum(exact) / len(exact)}
        if self.bleu:
            try:
                scores, results["signatures"] = corpus_scores(hypotheses, references)
                results |= scores
            except ConfigError as error:  # hours of training are worth more
                logger.warning("%s", error)
        if self.samples:
            samples = zip(lines[: self.samples], references, hypotheses, strict=False)
            results["translations"] = "\n\n".join(formatted(*sample) for sample in samples)
        return results


def formatted(source: str, reference: str, hypothesis: str) -> str:
    """The three one below the other, indented, which Markdown, as TensorBoard renders it, shows as they are."""
    named = {"source": source, "reference": reference, "hypothesis": hypothesis}
    return "\n".join(
        textwrap.fill(line, WIDTH, initial_indent=f"    {name:<10} ", subsequent_indent=" " * 15) or f"    {name}"
        for name, line in named.items()
    )
