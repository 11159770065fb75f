"""Exact match, BLEU and chrF of translations are those of their definitions."""

import logging
import math
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dlref.cli.run_reports import run_reports
from dlref.errors import ConfigError
from dlref.reports.translation_quality import TranslationQuality, corpus_scores
from tests.decoding.dictionary import LINES, Dictionary, by_hand, data_of


def test_exact_match_is_the_fraction_of_lines_equal_to_their_reference() -> None:
    pairs = [(line, by_hand(line)) for line in LINES]
    pairs[0], pairs[2] = (LINES[0], "A dog sleeps ."), (LINES[2], "the cat ")
    net, data = Dictionary(), data_of(pairs)
    for beam in (1, 2):
        assert TranslationQuality(beam=beam)(net, data, "eval")["exact_match"] == 5 / 7
    assert TranslationQuality(max_lines=2)(net, data, "eval")["exact_match"] == 1 / 2
    assert (
        TranslationQuality(max_lines=2)(net, data, "test")["exact_match"] == 5 / 7
    )  # of which all lines are translated
    assert TranslationQuality(max_lines=None)(net, data, "eval")["exact_match"] == 5 / 7
    assert TranslationQuality.while_training
    assert TranslationQuality(samples=0)(net, data, "eval").keys() == {"exact_match"}
    text = TranslationQuality(samples=1)(net, data, "eval")["translations"]
    expected = "    source     ein hund schläft .\n    reference  A dog sleeps .\n    hypothesis a dog sleeps ."
    assert text == expected
    assert TranslationQuality(samples=9)(net, data, "eval")["translations"].count("    hypothesis") == 7


def test_dlref_evaluate_translates_the_full_split_and_training_logs_that_it_does_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pairs = [(line, by_hand(line)) for line in LINES]
    pairs[-1] = (LINES[-1], "wrong")
    net, data, reports = Dictionary(), data_of(pairs), {"translation": TranslationQuality(max_lines=2, samples=0)}
    with caplog.at_level(logging.INFO):
        for full_split, fraction in ((False, 1.0), (True, 6 / 7), (False, 1.0)):
            results = run_reports(reports, net, data, "eval", torch.device("cpu"), full_split)
            assert results.metrics == {"exact_match": fraction}
    message = "during training, the first 2 of 7 lines of eval are translated; dlref evaluate translates all"
    assert [*filter(message.__eq__, caplog.messages)] == [message]  # once


def bleu_by_hand(hypotheses: list[str], references: list[str]) -> float:
    """Papineni et al. 2002, equation 3, where no n-gram precision is 0."""
    log_precision = 0.0
    for order in range(1, 5):
        matches = total = 0
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            ours, theirs = (
                Counter(zip(*(line.split()[start:] for start in range(order)), strict=False))
                for line in (hypothesis, reference)
            )
            matches += sum((ours & theirs).values())
            total += sum(ours.values())
        log_precision += math.log(matches / total) / 4
    our_length, their_length = (sum(len(line.split()) for line in lines) for lines in (hypotheses, references))
    return 100 * math.exp(log_precision + min(0, 1 - their_length / our_length))


def test_bleu_is_that_of_the_paper() -> None:
    hypotheses = ["the cat sat on the mat today", "the dog did not sleep at all", "the the the"]
    references = ["the cat sat on a mat today", "The dog did not sleep at all tonight", "the end of it"]
    scores, signatures = corpus_scores(hypotheses, references)
    assert scores["bleu"] == pytest.approx(bleu_by_hand(hypotheses, references))
    assert scores["bleu_lower"] == pytest.approx(bleu_by_hand(hypotheses, [line.lower() for line in references]))
    assert scores["bleu_lower"] > scores["bleu"]
    assert "bleu       nrefs:1|case:mixed|eff:no|tok:13a" in signatures
    assert "bleu_lower nrefs:1|case:lc|eff:no|tok:13a" in signatures


def test_punctuation_spaces_and_case_count_as_each_score_defines() -> None:
    hypotheses, references = ["don ' t sleep on it , he said ."], ['Don\'t sleep on it, he "said".']
    scores, _ = corpus_scores(hypotheses, references)
    assert scores["bleu_lower"] == pytest.approx(100)
    assert scores["bleu"] < 70
    spaced, _ = corpus_scores(["He said: sleep, on it."], ["He said : sleep , on it ."])
    assert (spaced["bleu"], spaced["chrf"]) == pytest.approx((100, 100))  # neither counts spaces around punctuation
    chrf = corpus_scores(["abc"], ["abd"])[0]["chrf"]
    assert chrf == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)  # n-grams of 1, 2 and 3 characters


def test_bleu_is_reported_on_request_and_a_warning_without_sacrebleu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [(line, by_hand(line)) for line in LINES if line.strip()]
    results = TranslationQuality(bleu=True)(Dictionary(), data_of(pairs), "test")
    assert results["exact_match"] == 1
    assert (results["bleu"], results["bleu_lower"], results["chrf"]) == pytest.approx((100, 100, 100))
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with caplog.at_level(logging.WARNING):
        assert TranslationQuality(bleu=True)(Dictionary(), data_of(pairs), "test").keys() == {
            "exact_match",
            "translations",
        }
    assert "pip install 'dlref[mt]'" in caplog.text


def test_a_network_or_data_without_translations_have_nothing_to_report() -> None:
    data = data_of([("hund", "dog")])
    assert TranslationQuality()(nn.Linear(1, 1), data, "eval") == {}
    assert TranslationQuality()(Dictionary(), SimpleNamespace(), "eval") == {}
    assert TranslationQuality()(Dictionary(), data_of([]), "eval") == {}


@pytest.mark.parametrize("settings", [{"beam": 0}, {"length_penalty": -1.0}, {"samples": -1}, {"max_lines": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(settings.values())))):
        TranslationQuality(**settings)
