"""Pairs of lines become batches that miss none of them, and hold little else."""

import datetime
import gzip
import itertools
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limited
from hypothesis import strategies as st
from torch import nn

from dlref.data import generator
from dlref.data.text import parallel_corpora
from dlref.data.text.addition import Addition
from dlref.data.text.dates import Dates
from dlref.data.text.encoded_pairs import TextLines
from dlref.data.text.line_encoder import SPECIALS, LineEncoder
from dlref.data.text.parallel import ParallelText, bucketed, overlap
from dlref.data.text.parallel_corpora import Multi30k, ParallelFiles
from dlref.data.text.tokenizer import Level
from dlref.errors import ConfigError, DataError
from dlref.interfaces import PairBatch, Shard

NET = nn.Linear(1, 1)
PAD, UNKNOWN, BEGIN, END = range(4)


class Numbers(ParallelText):
    """Lines of given lengths in words; the first word of each is the number of the line."""

    def __init__(
        self, lengths: list[tuple[int, int]], batch_size: int, bucket_noise: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__(batch_size, bucket_noise, seed)
        pairs = [(f"s{n}" + " x" * source, f"t{n}" + " y" * target) for n, (source, target) in enumerate(lengths)]
        self.encode({"train": pairs, "eval": pairs}, "words")


def uneven(count: int) -> list[tuple[int, int]]:
    """Lengths that correlate about as those of sentences and their translations."""
    draw = random.Random(0)
    sources = [int(draw.lognormvariate(2.5, 0.4)) for _ in range(count)]
    return [(source, max(1, round(source * draw.lognormvariate(0, 0.2)))) for source in sources]


def unpadded(batches: list[PairBatch]) -> float:
    """The fraction of positions that are not padding."""
    masks = [mask for batch in batches for mask in (batch.visible, batch.counted)]
    return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


ALONE = Shard()


def one_epoch(data: ParallelText, first: int = 0, shard: Shard = ALONE) -> list[PairBatch]:
    return list(islice(data.train_batches(NET, shard, first), int(data.batches_per_epoch)))


def same(one: PairBatch, other: PairBatch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def read(data: ParallelText, batches: list[PairBatch]) -> list[tuple[str, str]]:
    """The lines of batches, from their ids; every position is checked."""
    lines = []
    for batch in batches:
        for row in range(len(batch.source)):
            source, visible, tokens, targets, counted = (part[row].tolist() for part in batch)
            ends = visible.count(True), counted.count(True)
            assert visible == [place < ends[0] for place in range(len(source))]
            assert counted == [place < ends[1] for place in range(len(tokens))]
            assert source[ends[0] :] == [PAD] * (len(source) - ends[0])
            assert source[ends[0] - 1] == targets[ends[1] - 1] == END
            assert tokens[0] == BEGIN
            assert tokens[1 : ends[1]] == targets[: ends[1] - 1]
            assert tokens[ends[1] :] == targets[ends[1] :] == [PAD] * (len(tokens) - ends[1])
            words = data.source.vocabulary.words, data.target.vocabulary.words
            lines.append((" ".join(words[0][id] for id in source[: ends[0] - 1]),
                          " ".join(words[1][id] for id in targets[: ends[1] - 1])))  # fmt: skip
    return lines


@pytest.mark.parametrize("bucket_noise", [0.0, 3.0])
def test_each_epoch_has_every_pair_once_in_the_same_number_of_batches(bucket_noise: float) -> None:
    data = Numbers(uneven(101), 8, bucket_noise)
    assert data.batches_per_epoch == 13
    epochs = [one_epoch(data, 13 * turn) for turn in range(2)]
    for batches in epochs:
        assert sorted(read(data, batches)) == sorted(data.texts("train"))
        assert all(
            mask.any(0).all() for batch in batches for mask in (batch.visible, batch.counted)
        )  # as wide as needed
    orders = [read(data, batches) for batches in epochs]
    assert orders[0] != orders[1]
    counted = sum(int(batch.counted.sum()) for batch in epochs[0])
    assert data.units_per_batch(1) * 13 == pytest.approx(counted)
    assert read(data, one_epoch(Numbers(uneven(101), 8, bucket_noise, seed=1))) not in orders


def test_training_starts_at_any_batch_and_ranks_split_it() -> None:
    data = Numbers(uneven(50), 6, 1.0)
    batches = list(islice(data.train_batches(NET, Shard(), 0), 24))
    for first in (1, 7, 8, 17):
        later = islice(data.train_batches(NET, Shard(), first), 5)
        assert [*map(same, later, batches[first:])] == [True] * 5
    ranks = [islice(data.train_batches(NET, Shard(rank, 3), 4), 10) for rank in range(3)]
    for whole, parts in zip(batches[4:14], zip(*ranks, strict=True), strict=True):
        assert same(PairBatch(*map(torch.cat, zip(*parts, strict=True))), whole)


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 4))
def test_evaluation_reads_each_pair_once(count: int, size: int, ranks: int) -> None:
    data = Numbers(uneven(count), size)
    lines = [line for rank in range(ranks) for line in read(data, list(data.batches("eval", NET, Shard(rank, ranks))))]
    assert sorted(lines) == sorted(data.texts("eval"))


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=60), st.data())
def test_any_lengths_are_divided_into_batches_none_of_which_is_empty(
    lengths: list[tuple[int, int]], data: st.DataObject
) -> None:
    batches = data.draw(st.integers(1, len(lengths)))
    random, bucket_noise = data.draw(st.sampled_from([(None, 0.0), (generator(1), 0.0), (generator(1), 9.0)]))
    parts = bucketed(torch.tensor(lengths), batches, random, bucket_noise)
    assert len(parts) == batches
    assert all(len(part) for part in parts)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(lengths)))


@pytest.mark.slow
def test_batches_hold_equally_many_tokens_and_little_padding() -> None:
    data = Numbers(uneven(12_000), 32)
    batches = one_epoch(data)
    tokens = torch.tensor([float(batch.visible.sum() + batch.counted.sum()) for batch in batches])
    assert tokens.std() < 0.05 * tokens.mean()
    assert unpadded(batches) > 0.95
    assert unpadded(list(data.batches("eval", NET, Shard()))) > 0.95
    mixed = one_epoch(Numbers(uneven(12_000), 32, bucket_noise=1000))  # so the order is what does it
    assert unpadded(mixed) < 0.7


def written(folder: Path, name: str, lines: list[str] | bytes) -> Path:
    content = lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


GERMAN = [
    "Ein Hund läuft .",
    "Ein Hund <pad> <eos> schläft .",
    "Die Katze schläft .",
    "Die Katze läuft , und ein Hund .",
]
ENGLISH = ["A dog runs.", "A dog <bos> <unk> sleeps.", "The cat sleeps.", "The cat runs, and a dog."]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [written(tmp_path, "a.de", GERMAN * 20), written(tmp_path, "a.en.gz", ENGLISH * 20)]


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("level", ["words", "english", "characters", "bpe"])
def test_a_described_encoder_encodes_and_decodes_as_that_of_the_data(
    files: list[Path], level: Level, lowercase: bool
) -> None:
    data = ParallelFiles(files, level=level, bpe_vocab_size=60, lowercase=lowercase)
    batch = next(data.batches("test", NET, Shard()))
    for name, side, texts in zip(("source", "target"), (data.source, data.target), (GERMAN, ENGLISH), strict=True):
        again = LineEncoder.described(data.describe()[name])
        assert again.vocabulary.words[:4] == SPECIALS
        assert all(map(torch.equal, again.encode(texts), side.encode(texts)))
        ids, visible = again.encode(texts)
        assert not ((ids == PAD) & visible).any()
        for row, text in zip(ids, texts, strict=True):
            back = again.decode(row)
            assert back == side.decode(row.tolist())
            if level != "english" and "<" not in text:
                assert back == (text.lower() if lowercase else text)
    assert [data.target.decode(row) for row in batch.targets] == [data.target.decode(row) for row in batch.tokens]
    assert (data.source is data.target) == (level == "bpe")
    assert data.sizes == {
        "source_vocab_size": len(data.source.vocabulary),
        "target_vocab_size": len(data.target.vocabulary),
    }
    assert data.describe()["source"]["vocabulary"] == data.source.vocabulary.words
    assert ("Ein" in data.source.vocabulary) == (level == "words" and not lowercase)


@pytest.mark.parametrize("level", ["words", "english", "characters", "bpe"])
def test_a_special_token_in_the_text_is_none(files: list[Path], level: Level) -> None:
    data = ParallelFiles(files, level=level, min_freq=1, bpe_vocab_size=80)
    for side in (data.source, data.target):
        for row in side.ids([*GERMAN, *ENGLISH, "<pad><bos>", " ".join(SPECIALS)]):
            assert not {PAD, BEGIN, END} & set(row)
    if level in ("words", "english"):
        assert data.source.ids(["<pad> <eos>"]) == [[UNKNOWN, UNKNOWN]]
    assert len(set(data.target.vocabulary.words)) == len(data.target.vocabulary)


def batches_of_lists(data: ParallelText, batches: int, seed: int, max_len: int | None) -> Iterator[PairBatch]:
    """An epoch of batches made from lists of ids, one for each line."""
    pairs = []
    for pair in itertools.islice(zip(GERMAN * 20, ENGLISH * 20, strict=True), 72):  # without 5 % each for eval and test
        sides = zip((data.source, data.target), pair, strict=True)
        ids = [[side.word_ids.get(token, UNKNOWN) for token in side.tokenizer.lines([line])[0]] for side, line in sides]
        if max_len is None or max(map(len, ids)) <= max_len:
            pairs.append(ids)
    lengths = torch.tensor([[len(source) + 1, len(target) + 1] for source, target in pairs])
    for rows in bucketed(lengths, batches, generator(seed, 4, 0), data.bucket_noise):
        chosen = [pairs[row] for row in rows.tolist()]
        source, tokens, targets = (
            nn.utils.rnn.pad_sequence([torch.tensor(line) for line in lines], batch_first=True, padding_value=PAD)
            for lines in (
                [[*source, END] for source, _ in chosen],
                [[BEGIN, *target] for _, target in chosen],
                [[*target, END] for _, target in chosen],
            )
        )
        yield PairBatch(source, source != PAD, tokens, targets, targets != PAD)


@pytest.mark.parametrize("max_len", [None, 8])
@pytest.mark.parametrize("level", ["words", "english", "characters", "bpe"])
def test_packed_lines_make_the_same_batches_as_lists_of_ids(
    files: list[Path], level: Level, max_len: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if max_len and level == "characters":
        max_len = 20
    monkeypatch.setenv("DLREF_CACHE", str(tmp_path / "cache"))
    for _ in range(2):  # encoded, and found again
        data = ParallelFiles(
            files, level=level, bpe_vocab_size=60, max_len=max_len, batch_size=7, bucket_noise=2.0, seed=3
        )
        former = list(batches_of_lists(data, int(data.batches_per_epoch), 3, max_len))
        assert all(map(same, one_epoch(data), former))
        assert len(former) == data.batches_per_epoch
        monkeypatch.setattr(parallel_corpora, "encode_pairs", None)


def test_pairs_are_encoded_once_and_again_where_the_cache_or_a_library_is_not_what_it_was(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DLREF_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO, "dlref")
    made, encode = [], parallel_corpora.encode_pairs

    def counted(*arguments: Any, **settings: Any) -> Any:
        made.append(settings)
        time.sleep(0.05)  # in which the others come
        return encode(*arguments, **settings)

    monkeypatch.setattr(parallel_corpora, "encode_pairs", counted)
    with ThreadPoolExecutor(3) as pool:
        several = list(pool.map(lambda _: ParallelFiles(files, bpe_vocab_size=60), range(3)))
    assert len(made) == 1
    assert all(data.describe() == several[0].describe() for data in several)
    assert len({message for message in caplog.messages if "also occur in train" in message}) == 1
    assert sum("also occur in train" in message for message in caplog.messages) == 3  # also where they are found
    assert not list((tmp_path / "cache").glob("*.part"))
    for array in (tmp_path / "cache").glob("*/train.source.ids.npy"):  # cut off, as by a full disk
        os.truncate(array, 200)
    wanted = list(several[0].batches("eval", NET, Shard()))
    assert all(map(same, ParallelFiles(files, bpe_vocab_size=60).batches("eval", NET, Shard()), wanted))
    assert len(made) == 2
    for change in (
        {"bpe_vocab_size": 61},
        {"bpe_vocab_size": 60, "lowercase": True},
        {"bpe_vocab_size": 60, "max_len": 9},
        {"bpe_vocab_size": 60, "eval_share": 0.1},
    ):
        ParallelFiles(files, **change)  # type: ignore[arg-type]
    assert len(made) == 6
    monkeypatch.setattr("sentencepiece.__version__", "another")
    ParallelFiles(files, bpe_vocab_size=60)
    assert len(made) == 7
    written(tmp_path, "a.de", GERMAN[1:] * 20 + GERMAN[:1] * 20)
    ParallelFiles(files, bpe_vocab_size=60)
    assert len(made) == 8


def test_pairs_are_stored_as_a_few_arrays(files: list[Path]) -> None:
    for data in (ParallelFiles(files, bpe_vocab_size=60), Numbers(uneven(9), 2)):
        for split in filter(data.has, ("train", "eval", "test")):
            held = data.split(split)
            assert all(isinstance(part, np.ndarray) for texts in held.texts for part in (texts.utf8, texts.ends))
            assert all(isinstance(part, torch.Tensor) for lines in held.lines for part in lines)


@limited(max_examples=30)
@given(st.lists(st.text(max_size=5), max_size=9), st.data())
def test_packed_text_lines_equal_the_original_lines(lines: list[str], data: st.DataObject) -> None:
    texts = TextLines.of(lines)
    assert list(texts) == lines
    assert len(texts) == len(lines)
    place = data.draw(st.slices(len(lines)))
    assert texts[place] == lines[place]
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(lines), max_size=len(lines))), bool)
    assert list(texts.select(kept)) == list(itertools.compress(lines, kept))
    assert [texts[number] for number in range(-len(lines), len(lines))] == lines * 2


def test_empty_lines_are_left_out_of_training_and_kept_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = written(tmp_path, "a", ["a b c", "", "c", "d e f g", "a"])
    other = written(tmp_path, "b", ["A", "B", "   ", "D", "E F"])
    with caplog.at_level(logging.INFO, "dlref"):
        data = ParallelFiles([one, other], [one, other], level="words", min_freq=1, max_len=3)
    assert data.texts("train") == [("a b c", "A"), ("a", "E F")]
    assert data.texts("eval") == [("a b c", "A"), ("", "B"), ("c", ""), ("d e f g", "D"), ("a", "E F")]
    said = "\n".join(caplog.messages)
    assert "2 of 5 training pairs have an empty line" in said
    assert "1 of 3 training pairs are longer than data.max_len=3" in said
    assert "40.00% of those of eval also occur in train" in said
    (batch,) = data.batches("eval", NET, Shard())
    assert sorted(batch.visible.sum(1).tolist()) == [1, 2, 2, 4, 5]
    assert not data.has("test")
    with pytest.raises(DataError, match="no 'test' split; it has train, eval"):
        data.texts("test")


def test_parts_for_evaluation_are_the_last_lines(tmp_path: Path) -> None:
    paths = [written(tmp_path, name, [f"{name}{n}" for n in range(20)]) for name in "ab"]
    data = ParallelFiles(paths, level="words", min_freq=1, eval_share=0.2, test_share=0.1)
    parts = [[(f"a{n}", f"b{n}") for n in part] for part in (range(14), range(14, 18), range(18, 20))]
    assert [data.texts(split) for split in ("train", "eval", "test")] == parts
    data = ParallelFiles(paths, test=paths, level="words", min_freq=1, eval_share=0.2, test_share=0.1)
    assert [len(data.texts(split)) for split in ("train", "eval", "test")] == [16, 4, 20]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (["one", "two", "three"], "has 2 lines and .*b 3"),
        (b"", "b holds no text"),
        (b"one\ntwo \xff\n", "b, line 2, holds bytes that are not UTF-8"),
        (b"one\0\ntwo\n", "b, line 1, holds a NUL byte"),
        (None, "b is not a file"),
    ],
)
def test_fault_17_two_files_that_do_not_belong_together(tmp_path: Path, content: Any, words: str) -> None:
    one = written(tmp_path, "a", ["one", "two"])
    other = tmp_path / "b" if content is None else written(tmp_path, "b", content)
    with pytest.raises(DataError, match=words):
        ParallelFiles([one, other], level="words")


def test_impossible_settings_are_refused(files: list[Path]) -> None:
    impossible: list[Any] = [
        {"eval_share": 0.6, "test_share": 0.5},
        {"min_freq": 0, "level": "words"},
        {"bpe_vocab_size": 9000},
        {"batch_size": 0},
        {"eval": files[:1]},
    ]
    for settings in impossible:
        with pytest.raises(ConfigError):
            ParallelFiles(files, **settings)
    with pytest.raises(DataError, match=r"longer than data\.max_len=1"):
        ParallelFiles(files, level="words", max_len=1)
    with pytest.raises(ConfigError, match="both de"):
        Multi30k(source="de", target="de")
    sizes: list[Any] = [{"size": 10**6}, {"size": 100, "eval_size": 60, "test_size": 60}]
    for settings in sizes:
        with pytest.raises(ConfigError):
            Dates(**settings)


def date_of(text: str) -> str:
    """Parsed by the standard library, which ignores case."""
    formats = ("%m/%d/%y", "%b %d, %Y", "%B %d, %Y", "%A, %B %d, %Y")
    for layout in formats:
        try:
            return datetime.datetime.strptime(text, layout).date().isoformat()
        except ValueError:
            continue
    raise AssertionError(text)


def form(text: str) -> str:
    """The format of a date: its commas, slashes, case, and whether the first word is long."""
    case = [kind for kind in ("islower", "isupper", "istitle") if getattr(text, kind)()]
    long = len(text.split()[0]) > 3
    return f"{text.count(',')} {text.count('/')} {case} {long}"


def test_dates_are_parsed_to_their_targets() -> None:
    data = Dates(size=3000, eval_size=200, test_size=300)
    assert [len(data.texts(split)) for split in ("train", "eval", "test")] == [2500, 200, 300]
    pairs = [pair for split in ("train", "eval", "test") for pair in data.texts(split)]
    assert all(date_of(source) == target for source, target in pairs)
    assert len({source for source, _ in pairs}) == len(pairs)
    days = [source.split(",")[0].title() for source, _ in pairs if source.count(",") == 2]
    assert days == [f"{datetime.date.fromisoformat(t):%A}" for s, t in pairs if s.count(",") == 2]
    again = Dates(size=3000, eval_size=200, test_size=300)
    other = Dates(size=3000, eval_size=200, test_size=300, seed=1)
    assert data.texts("test") == again.texts("test") != other.texts("test")
    others = [pair for split in ("train", "eval", "test") for pair in other.texts(split)]
    assert set(others) != set(pairs)  # other pairs, not only another split


def test_as_many_dates_can_be_had_as_there_are_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlref.data.text.dates.DAYS", 365)
    ways = 365 * 10 - 31 * 3  # a day in May has three ways less: its long name is its short one
    data = Dates(size=ways, eval_size=1, test_size=1)
    assert len({pair for split in ("train", "eval", "test") for pair in data.texts(split)}) == ways
    with pytest.raises(ConfigError, match=f"there are {ways:,} distinct ones"):
        Dates(size=ways + 1)


def test_sums_are_right_and_none_occurs_in_both_orders() -> None:
    data = Addition(size=9000, eval_size=400, test_size=600)
    pairs = [pair for split in ("train", "eval", "test") for pair in data.texts(split)]
    assert len(pairs) == 9000
    numbers = [tuple(map(int, source.split("+"))) for source, _ in pairs]
    assert [str(sum(two)) for two in numbers] == [target for _, target in pairs]
    assert len({frozenset(two) for two in numbers}) == len(pairs)
    assert any(one == other for one, other in numbers)
    assert 0.45 < sum(one < other for one, other in numbers) / len(pairs) < 0.55


@pytest.mark.parametrize("kind", [Dates, Addition])
def test_a_file_as_in_the_book_is_split_without_shared_sources(tmp_path: Path, kind: Any) -> None:
    lines = [f"{f'may {n % 30}':<12}_{n % 30:<4}" for n in range(50)]
    data = kind(file=written(tmp_path, "pairs.txt", lines), eval_size=4, test_size=6)
    parts = [data.texts(split) for split in ("train", "eval", "test")]
    assert [len(part) for part in parts] == [20, 4, 6]
    assert sorted(pair for part in parts for pair in part) == sorted((f"may {n}", str(n)) for n in range(30))
    with pytest.raises(DataError, match="line 2, has no '_'"):
        kind(file=written(tmp_path, "pairs.txt", ["1+1_2", "1+2 3"]))
    with pytest.raises(DataError, match="is not a file"):
        kind(file=tmp_path / "none")


def test_overlap_counts_what_training_has_seen() -> None:
    assert overlap(["a", "b", "b"], ["b", "c", "b", "d"]) == 0.5
    assert overlap(["a"], []) == 0


@pytest.mark.slow
@pytest.mark.data
def test_generated_pairs_are_distributed_as_the_books_and_its_split_of_dates_overlaps(datasets: Path) -> None:
    dates = [line.split("_")[0].strip() for line in (datasets / "date/date.txt").read_text().splitlines()]
    order = np.arange(len(dates))
    np.random.RandomState(1984).shuffle(order)  # the split of the book
    shuffled = [dates[position] for position in order]
    assert overlap(shuffled[:45_000], shuffled[45_000:]) == 0.281
    sums = Addition(file=datasets / "addition/addition.txt")
    generated = Addition()
    digits = [
        Counter(tuple(map(len, source.split("+"))) for source, _ in data.texts("train")) for data in (sums, generated)
    ]
    for lengths, count in digits[0].items():
        assert digits[1][lengths] == pytest.approx(count, rel=0.06, abs=50)
    book = Dates(file=datasets / "date/date.txt")
    assert sum(len(book.texts(split)) for split in ("train", "eval", "test")) == 41_578
    forms = [Counter(form(s) for s, _ in data.texts("train")) for data in (book, Dates(size=41_578))]
    for kind, count in forms[0].items():
        assert forms[1][kind] == pytest.approx(count, rel=0.08, abs=50)


@pytest.mark.slow
@pytest.mark.data
def test_multi30k_has_its_published_sizes_and_little_padding(datasets: Path) -> None:
    data = Multi30k(datasets)
    assert [len(data.texts(split)) for split in ("train", "eval", "test")] == [29_000, 1_014, 1_000]
    assert data.texts("train")[0][1] == "Two young, White males are outside near many bushes."
    assert data.source is data.target
    assert unpadded(one_epoch(data)) > 0.95
    other = Multi30k(datasets, source="fr", target="de", test="mscoco2017", level="words", lowercase=True)
    assert len(other.texts("test")) == 461
    assert other.texts("train")[0][0].startswith("Deux jeunes hommes blancs")
    assert "Deux" not in other.source.vocabulary
    assert "deux" in other.source.vocabulary
