"""Scores of translations against sacrebleu's functions and, for BLEU, NLTK."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from torchtext.data.utils import get_tokenizer

from dlref.cli.main import main
from dlref.reports.translation_quality import corpus_scores
from tests.crosschecks.rows import crosscheck

sacrebleu = pytest.importorskip("sacrebleu")
nltk = pytest.importorskip("nltk.translate.bleu_score")
matches = pytest.importorskip("nltk.translate.chrf_score").chrf_precision_recall_fscore_support

Agree = Callable[..., None]
SIGNATURE = "nrefs:1|case:{case}|eff:no|tok:13a|smooth:exp"
EXACT = 1e-12


def captions(datasets: Path, name: str) -> list[str]:
    with gzip.open(datasets / "multi30k" / name, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def changed(line: str, seed: int) -> str:
    """The line with words left out, swapped, written large, or glued to their punctuation, as bad translations have it."""
    choose = random.Random(seed)
    words = [word for word in line.split() if choose.random() < 0.9]
    if len(words) > 3 and choose.random() < 0.5:
        place = choose.randrange(len(words) - 1)
        words[place : place + 2] = reversed(words[place : place + 2])
    return " ".join(word.upper() if choose.random() < 0.1 else word for word in words).replace(" .", ".")


@crosscheck(
    "BLEU (13a tokens; also lower-cased) and chrF of real captions",
    "sacrebleu, torchtext",
    "`corpus_bleu` and `corpus_chrf`; lower-cased: of what torchtext's `basic_english` makes first",
)
def test_scores(datasets: Path, agree: Agree) -> None:
    references = captions(datasets, "test_2016_flickr.en.gz")
    texts = [changed(line, seed) for seed, line in enumerate(references)]
    found, signatures = corpus_scores(texts, references)
    agree(found["bleu"], sacrebleu.corpus_bleu(texts, [references], tokenize="13a").score, atol=EXACT)
    agree(found["chrf"], sacrebleu.corpus_chrf(texts, [references]).score, atol=EXACT)
    english = get_tokenizer("basic_english")
    ours, theirs = ([" ".join(english(line)) for line in lines] for lines in (texts, references))
    agree(found["bleu_lower"], sacrebleu.corpus_bleu(ours, [theirs], tokenize="13a", lowercase=True).score, atol=EXACT)
    assert 20 < found["bleu"] < found["bleu_lower"] < 95
    for name, case in (("bleu", "mixed"), ("bleu_lower", "lc")):
        assert f"{name:<10} {SIGNATURE.format(case=case)}" in signatures


def chrf(texts: list[str], references: list[str], orders: int = 6, beta: float = 2.0) -> float:
    """Popović 2015, section 2, of the n-grams of characters that NLTK finds in both; every line has at least `orders`."""
    ours, theirs = (["".join(line.split()) for line in lines] for lines in (texts, references))
    precision = recall = 0.0
    for n in range(1, orders + 1):
        found = sum(matches(reference, text, n)[3] for text, reference in zip(ours, theirs, strict=True))
        precision += found / sum(len(line) - n + 1 for line in ours) / orders
        recall += found / sum(len(line) - n + 1 for line in theirs) / orders
    return 100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


@crosscheck(
    "BLEU (also lower-cased) and chrF of real captions, by an independent implementation",
    "nltk, sacrebleu, torchtext",
    "`corpus_bleu` of the tokens that sacrebleu's 13a makes; lower-cased: of what torchtext's `basic_english` makes first; "
    "chrF of the character n-gram matches that `chrf_precision_recall_fscore_support` counts",
)
def test_bleu_and_chrf(datasets: Path, agree: Agree) -> None:
    """Captions of seven words and more: the library counts an n-gram of each translation that is shorter than n tokens."""
    references = [line for line in captions(datasets, "test_2017_flickr.en.gz") if len(line.split()) > 6]
    texts = [changed(line, seed) for seed, line in enumerate(references)]
    tokenizer, english = sacrebleu.metrics.BLEU(tokenize="13a").tokenizer, get_tokenizer("basic_english")
    found, _ = corpus_scores(texts, references)
    for name, cut in (("bleu", str), ("bleu_lower", lambda line: " ".join(english(line)))):
        ours, theirs = ([tokenizer(cut(line)).split() for line in lines] for lines in (texts, references))
        assert min(map(len, ours)) >= 4
        agree(found[name], 100 * nltk.corpus_bleu([[line] for line in theirs], ours), atol=1e-10)
    agree(found["chrf"], chrf(texts, references), atol=1e-10)


@pytest.mark.parametrize("beam", [1, 4])
@crosscheck(
    "exact match, BLEU and chrF of `dlref evaluate`",
    "sacrebleu",
    "the lines that `dlref translate` writes; an exact match is a line whose TER is 0",
)
def test_evaluation(
    beam: int, datasets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], agree: Agree
) -> None:
    """Sixty captions, learned half by heart."""
    pairs = zip(captions(datasets, "val.de.gz"), captions(datasets, "val.en.gz"), strict=True)
    sources, references = (
        list(lines) for lines in zip(*sorted(pairs, key=lambda pair: len(pair[0]))[:60], strict=True)
    )
    files = [tmp_path / "captions.de", tmp_path / "captions.en"]
    for file, lines in zip(files, (sources, references), strict=True):
        file.write_text("\n".join(lines), encoding="utf-8")
    named, run = f"[{files[0]},{files[1]}]", tmp_path / "run"
    settings = ["model=seq2seq", "data=parallel", f"data.train={named}", f"data.eval={named}", "data.level=words"]
    settings += [
        "data.min_freq=1",
        "data.batch_size=10",
        "network.width=32",
        "optimizer.lr=0.01",
        "trainer.max_steps=120",
    ]
    assert main(["train", *settings, "reports=null", "device=cpu", "threads=1", f"run_dir={run}"]) == 0
    report = "{_target_: dlref.reports.translation_quality.TranslationQuality, bleu: true, beam: " + str(beam) + "}"
    assert main(["evaluate", str(run), "--split", "eval", f"reports={{translation: {report}}}"]) == 0
    capsys.readouterr()
    assert main(["translate", str(run), str(files[0]), "--beam", str(beam)]) == 0
    texts = capsys.readouterr().out.splitlines()

    found = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["metrics"]
    agree(found["bleu"], sacrebleu.corpus_bleu(texts, [references], tokenize="13a").score, atol=EXACT)
    agree(found["chrf"], sacrebleu.corpus_chrf(texts, [references]).score, atol=EXACT)
    errors = sacrebleu.metrics.TER(case_sensitive=True)
    right = [
        errors.sentence_score(*pair).score == 0 for pair in zip(texts, ([each] for each in references), strict=True)
    ]
    agree(found["exact_match"], sum(right) / len(right), atol=EXACT)
    assert 0 < found["exact_match"] < 1
