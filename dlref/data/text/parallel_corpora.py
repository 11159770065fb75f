"""Parallel corpora: published ones by name, and pairs of files of your own."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlref.data.download import RemoteFile, data_root, fetch, github
from dlref.data.text import encoded_pairs
from dlref.data.text.encoded_pairs import TextLines
from dlref.data.text.parallel import ParallelText, encode_pairs
from dlref.data.text.text_files import FORMAT, file_hash, lines_of
from dlref.data.text.token_cache import cached
from dlref.data.text.tokenizer import Level, sentencepiece_version
from dlref.errors import ConfigError, DataError, brief
from dlref.interfaces import HasRoot, HeldOut

Language = Literal["de", "en", "fr"]
Test = Literal["flickr2016", "flickr2017", "mscoco2017"]
TESTS = {"flickr2016": "test_2016_flickr", "flickr2017": "test_2017_flickr", "mscoco2017": "test_2017_mscoco"}
HASHES = {
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.fr.gz": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
    "test_2017_flickr.de.gz": "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee",
    "test_2017_flickr.en.gz": "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074",
    "test_2017_flickr.fr.gz": "3ba671ceb2299f3304ffafefea7a833d08632fbaf0ba18546f8a2ec2391af496",
    "test_2017_mscoco.de.gz": "799e4854c25d601cb6cb6be29eabe5667734c61ace2f495e03e429031a0bc338",
    "test_2017_mscoco.en.gz": "aab300bfb4427697987e02cd0aacd44bfe8aa50456231b6474c08038bbed2b58",
    "test_2017_mscoco.fr.gz": "754f3072ba9f124569ba5258b32730fc1d214bbf8e0c6dfb2b74401676220db0",
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.fr.gz": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.fr.gz": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
}
FILES = {
    name: RemoteFile(f"multi30k/{name}", digest, github("multi30k/dataset", "master", f"data/task1/raw/{name}"))
    for name, digest in HASHES.items()
}


class CachedParallelText(ParallelText):
    """Parallel text from files, which are read and encoded once: see `dlref.data.text.token_cache`."""

    def encode_files(
        self,
        files: Mapping[str, Sequence[Path]],
        held_out: Mapping[str, float],
        level: Level,
        min_freq: int,
        bpe_vocab_size: int,
        lowercase: bool,
        max_len: int | None,
    ) -> None:
        """Encode two files for each split; `held_out` cuts fractions off the end of `train`, the first of them last."""
        paths = {split: checked(two, split) for split, two in files.items() if two or split == "train"}
        settings: dict[str, Any] = {"level": level, "min_freq": min_freq, "lowercase": lowercase, "max_len": max_len}
        versions: dict[str, Any] = {"format": FORMAT}
        if level == "bpe":
            settings |= {"bpe_vocab_size": bpe_vocab_size}
            versions |= {"sentencepiece": sentencepiece_version()}
        hashes = {split: [file_hash(path) for path in two] for split, two in paths.items()}

        def build(folder: Path) -> None:
            encoded_pairs.save(folder, encode_pairs(read_pairs(paths, held_out), **settings))

        self.set_pairs(cached(["pairs", settings, versions, dict(held_out), hashes], build, encoded_pairs.load))


class ParallelFiles(CachedParallelText, HeldOut):
    """Aligned text files of your own, a source and a target for `train` and optionally `eval` and `test`, plain or as .gz.

    Without `eval` the last `eval_share` of `train` is held out for it, and without either a last `test_share` for `test`.
    `level` is the unit of tokenization: `words` separated by white space, `english` (lower-cased words and punctuation),
    `characters`, or `bpe`, `bpe_vocab_size` subwords shared by both languages. At the other levels each language has its own
    vocabulary, of the tokens that occur `min_freq` times. `max_len` leaves out training pairs of which the source or the
    target has more tokens.

    Raises DataError for files that are missing, empty or not text, or have different numbers of lines.
    """

    split_settings = ("eval_share", "test_share", "eval", "test")

    def __init__(
        self,
        train: Sequence[Path],
        eval: Sequence[Path] = (),
        test: Sequence[Path] = (),
        level: Level = "bpe",
        min_freq: int = 2,
        bpe_vocab_size: int = 8000,
        lowercase: bool = False,
        max_len: int | None = 200,
        eval_share: float = 0.05,
        test_share: float = 0.05,
        batch_size: int = 64,
        bucket_noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, bucket_noise, seed)
        if not 0 <= eval_share + test_share < 1:
            raise ConfigError(
                f"data.eval_share {eval_share} and test_share {test_share} leave nothing for training; take less than 1"
            )
        given = {"train": train, "eval": eval, "test": test}
        held_out = {} if eval else {"eval": eval_share} if test else {"test": test_share, "eval": eval_share}
        self.encode_files(given, held_out, level, min_freq, bpe_vocab_size, lowercase, max_len)


class Multi30k(CachedParallelText, HasRoot):
    """Captions of photographs, 29,000 for training and 1,014 for `eval`, without preprocessing (Elliott et al. 2016).

    `test` has 1,000 captions of 2016 or 2017, or 461 of 2017 with ambiguous verbs.
    """

    def __init__(
        self,
        root: Path | None = None,
        source: Language = "de",
        target: Language = "en",
        test: Test = "flickr2016",
        level: Level = "bpe",
        min_freq: int = 2,
        bpe_vocab_size: int = 8000,
        lowercase: bool = False,
        max_len: int | None = None,
        batch_size: int = 64,
        bucket_noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, bucket_noise, seed)
        if source == target:
            raise ConfigError(f"data.source and data.target are both {source}; choose two of de, en, fr")
        self.root = data_root(root)
        names = {"train": "train", "eval": "val", "test": TESTS[test]}
        files = {
            split: [fetch(FILES[f"{name}.{language}.gz"], self.root) for language in (source, target)]
            for split, name in names.items()
        }
        self.encode_files(files, {}, level, min_freq, bpe_vocab_size, lowercase, max_len)


def checked(files: Sequence[Path], split: str) -> list[Path]:
    """The paths of two existing files."""
    if len(files) != 2:
        first = files[0] if files else "SOURCE"
        raise ConfigError(
            f"data.{split} names {len(files)} files; it takes two, as data.{split}=[{brief(first)},TARGET]"
        )
    paths = [Path(os.path.expanduser(file)) for file in files]
    for path in paths:
        if not os.path.isfile(path):
            raise DataError(f"{path} is not a file; data.{split} takes two texts, plain or as .gz")
    return paths


def read_pairs(
    files: Mapping[str, Sequence[Path]], held_out: Mapping[str, float]
) -> dict[str, tuple[TextLines, TextLines]]:
    """The stripped lines of the two files of each split; `held_out` cuts fractions off the end of `train`."""
    splits = {split: (read_lines(one, split), read_lines(other, split)) for split, (one, other) in files.items()}
    for split, (sources, targets) in splits.items():
        if len(sources) != len(targets):
            counts = f"{files[split][0]} has {len(sources):,} lines and {files[split][1]} {len(targets):,}"
            raise DataError(f"{counts}; bring two files whose lines belong together")
    sources, targets = splits["train"]
    stop, number = len(sources), np.arange(len(sources))
    for split, fraction in held_out.items():
        start = max(stop - math.ceil(fraction * len(sources)), 0)
        rows = (number >= start) & (number < stop)
        splits[split], stop = (sources.select(rows), targets.select(rows)), start
    if not stop:
        raise DataError(
            f"{files['train'][0]} has {len(sources)} lines, of which eval and test leave none; name data.eval"
        )
    splits["train"] = (sources.select(number < stop), targets.select(number < stop))
    return splits


def read_lines(path: Path, split: str) -> TextLines:
    lines = TextLines.of(line.strip() for line in lines_of(path))
    if not len(lines.utf8):
        raise DataError(f"{path} holds no text; bring another one for data.{split}")
    return lines
