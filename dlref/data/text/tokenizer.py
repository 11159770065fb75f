"""Text and its parts: words, characters or pieces of words, and their numbers. The one importer of torchtext."""

import base64
import functools
import io
import itertools
import re
import textwrap
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from dlref.errors import CheckpointError, ConfigError, DataError

PAD = "<pad>"  # behind the end of a line that is shorter than others of its batch
UNKNOWN = "<unk>"
BEGIN = "<bos>"  # of a line that is to be written
END = "<eos>"  # of a line
LONGEST_LINE = 1000  # characters: of four bytes each as many as sentencepiece reads of a line
SPACE = "\u2581"  # stands for a space in subwords
BYTES = 256  # subwords of one byte each, for characters that training has not seen
BYTE = re.compile("<0x[0-9A-F]{2}>")
Level = Literal["words", "english", "characters", "bpe"]


def english() -> Callable[[str], list[str]]:
    """torchtext's `basic_english`: lower-cased words and punctuation marks."""
    try:
        from torchtext.data.utils import get_tokenizer
    except (ImportError, OSError) as error:  # 0.18 fails on symbols that torch no longer has
        raise ConfigError(
            f"torchtext does not load ({str(error).splitlines()[0][:100]}); run: pip install torchtext==0.6.0"
        ) from None
    return get_tokenizer("basic_english")


class Tokenizer:
    """Cuts text into tokens, and puts them together again.

    `words` are what white space separates, `english` the words and marks of torchtext's `basic_english`, `characters`
    single ones, `bpe` pieces of words (Sennrich et al. 2016) by a sentencepiece model, which `learn_bpe` makes. A line
    of words ends with `<eos>`; a line of characters with a line feed, which is one of them.

    Subwords lose nothing: `join` gives back any text. Each line is encoded with a space before it, so that its first word
    has the same subwords as elsewhere; characters that training has not seen become subwords of one byte each.
    """

    def __init__(self, level: Level, model: bytes | None = None) -> None:
        self.level, self.model = level, model
        self.cut = {"words": str.split, "english": english() if level == "english" else None, "characters": list}.get(
            level
        )
        if level == "bpe":
            from sentencepiece import SentencePieceProcessor

            assert model is not None
            self.processor = SentencePieceProcessor(model_proto=model)

    def __call__(self, text: str, begins: bool = True) -> list[str]:
        """The tokens of whole lines, the last of which may lack its line feed; the first goes on unless it `begins`."""
        if self.cut is not None:
            return self.cut(text if self.level == "characters" else text.replace("\n", f" {END} "))
        first, *others = text.split("\n")
        ended = self.subwords(
            [f" {first}" if begins and first else first, *(f" {line}" if line else "" for line in others)]
        )
        for tokens in ended[:-1]:
            tokens.append(END)
        return [token for tokens in ended for token in tokens]

    def lines(self, lines: Sequence[str]) -> list[list[str]]:
        """The tokens of each line, without its end."""
        if self.cut is not None:
            return [self.cut(line) for line in lines]
        return self.subwords([f" {line}" if line else "" for line in lines])

    def subwords(self, texts: list[str]) -> list[list[str]]:
        """The subwords of each text. The character that stands for a space in them is spelled by its bytes."""
        found: list[list[str]] = self.processor.encode(texts, out_type=str)
        for number, text in enumerate(texts):
            if SPACE in text:
                first, *others = self.processor.encode(text.split(SPACE), out_type=str)
                spelled = [f"<0x{byte:02X}>" for byte in SPACE.encode()]
                found[number] = [*first, *itertools.chain.from_iterable([*spelled, *part] for part in others)]
        return found

    def join(self, tokens: Iterable[str]) -> str:
        """Text as people read it."""
        if self.level == "characters":
            return "".join(tokens)
        if self.level == "bpe":
            text = b"".join(map(bytes_of, tokens)).decode(errors="replace")
            return text.removeprefix(" ").replace("\n ", "\n")
        text = " ".join("\n" if token == END else token for token in tokens)
        return "\n".join(line.strip() for line in text.split("\n"))

    def describe(self) -> dict[str, Any]:
        """Plain values, from which `described` makes the same."""
        model = None if self.model is None else base64.b64encode(self.model).decode()
        return {"level": self.level, "model": model}

    @classmethod
    def described(cls, description: Mapping[str, Any]) -> "Tokenizer":
        """Raises CheckpointError for what is no such description: a file holds it that anybody may have written."""
        try:
            level, model = description["level"], description["model"]
            if level not in typing.get_args(Level) or (level == "bpe") != bool(model):
                raise ValueError(f"level {level!r:.40}")
            return cls(level, None if model is None else base64.b64decode(model, validate=True))
        except (LookupError, TypeError, ValueError, RuntimeError) as error:  # the last is sentencepiece's
            raise CheckpointError(
                f"what describes the tokenizer is damaged ({type(error).__name__}); use another checkpoint"
            ) from error


@functools.lru_cache(maxsize=2**16)
def bytes_of(subword: str) -> bytes:
    """A subword as UTF-8, which may be a part of a character."""
    if BYTE.fullmatch(subword):
        return bytes.fromhex(subword[3:5])
    return b"\n" if subword == END else subword.replace(SPACE, " ").encode(errors="replace")


def sentencepiece_version() -> str:
    import sentencepiece

    return str(sentencepiece.__version__)


def learn_bpe(lines: Iterable[str], size: int, specials: Sequence[str] = (UNKNOWN, END)) -> bytes:
    """A sentencepiece model of `size` - 1 subwords from the first million lines, `specials` and 256 subwords of one byte.

    The text is not normalized, so that it can be decoded without loss. Lines are cut to what sentencepiece reads, which
    leaves out longer ones. Raises ConfigError for more subwords than the lines yield, or fewer than they have characters.
    """
    import sentencepiece

    model = io.BytesIO()
    cut = (
        f" {part}"
        for line in lines
        for part in ([line] if len(line) < LONGEST_LINE else textwrap.wrap(line, LONGEST_LINE, break_on_hyphens=False))
    )
    named: dict[str, Any] = {}
    for name, token in (("pad", PAD), ("unk", UNKNOWN), ("bos", BEGIN), ("eos", END)):
        named |= {f"{name}_piece": token, f"{name}_id": specials.index(token) if token in specials else -1}
    extra = BYTES + len(specials) - 1
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.islice(cut, 1_000_000),
            model_writer=model,
            model_type="bpe",
            vocab_size=size + extra,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            minloglevel=2,
            **named,
        )
    except RuntimeError as error:
        most, least = (re.search(pattern, str(error)) for pattern in (r"<= (\d+)", r"required_chars\. \d+ vs (\d+)"))
        advice = (
            f"choose {int(most[1]) - extra} or fewer"
            if most
            else f"choose {int(least[1]) - extra} or more"
            if least
            else str(error).strip().splitlines()[-1][-160:]
        )
        raise ConfigError(f"data.pieces={size} cannot be learned from this text; {advice}") from None
    return model.getvalue()


class Vocabulary:
    """Words <-> ids 0 .. len - 1; what is not in it becomes `<unk>`. Methods are named as in torchtext 0.18."""

    def __init__(self, words: Sequence[str]) -> None:
        """`words` by id; raises DataError unless they are distinct and `<unk>` is among them."""
        if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
            raise DataError("a vocabulary is a list of words, and this holds something else")
        self.words = list(words)
        self.ids = {word: id for id, word in enumerate(self.words)}
        if len(self.ids) < len(self.words) or UNKNOWN not in self.ids:
            raise DataError(f"a vocabulary of {len(self.words)} words needs them distinct and {UNKNOWN} among them")
        self.unknown, self.end = self.ids[UNKNOWN], self.ids.get(END)

    @classmethod
    def build(
        cls,
        tokens: Iterable[str] | Mapping[str, int],
        minimum: int = 1,
        specials: Sequence[str] = (UNKNOWN,),
        maximum: int | None = None,
    ) -> "Vocabulary":
        """Specials first, then the words seen `minimum` times or more by falling frequency, ties alphabetically.

        `tokens` are those of a text, or their counts; `maximum` limits the size, specials included.
        """
        from torchtext.vocab import Vocab

        most = None if maximum is None else max(maximum - len(specials), 0)
        counts = Counter(tokens)
        return cls(Vocab(counts, max_size=most, min_freq=minimum, specials=list(specials), specials_first=True).itos)

    @classmethod
    def of_text(
        cls,
        tokenizer: Tokenizer,
        counts: Mapping[str, int],
        minimum: int,
        specials: Sequence[str],
        maximum: int | None = None,
    ) -> "Vocabulary":
        """The vocabulary of a text: for `bpe` all subwords of the model, else `build` from the counts of its tokens.

        Raises ConfigError where no token is seen `minimum` times.
        """
        if tokenizer.level == "bpe":
            model = tokenizer.processor
            return cls([model.id_to_piece(id) for id in range(model.get_piece_size())])
        most = max((count for token, count in counts.items() if token not in specials), default=minimum)
        if most < minimum:
            raise ConfigError(
                f"data.minimum is {minimum}, and the most frequent token of the training text has a count of {most}; lower it"
            )
        return cls.build(counts, minimum, specials, maximum)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.ids

    def __getitem__(self, word: str) -> int:
        return self.ids.get(word, self.unknown)

    def get_default_index(self) -> int:
        return self.unknown

    def lookup_token(self, id: int) -> str:
        return self.words[id]

    def lookup_indices(self, tokens: Iterable[str]) -> list[int]:
        return [self[token] for token in tokens]

    def lookup_tokens(self, ids: Iterable[int]) -> list[str]:
        return [self.words[id] for id in ids]

    def get_itos(self) -> list[str]:
        return self.words

    def get_stoi(self) -> dict[str, int]:
        return self.ids
