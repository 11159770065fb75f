"""Tokenizers for words, characters and subwords, and vocabularies. The only importer of torchtext."""

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

PAD = "<pad>"
UNKNOWN = "<unk>"
BEGIN = "<bos>"  # the first input of a decoder
END = "<eos>"  # the end of a line
MAX_LINE = 1000  # characters: at 4 bytes each still less than the 4,192 bytes that sentencepiece reads of a line
SPACE = "\u2581"  # how sentencepiece writes a space
BYTES = 256  # subwords of one byte each, which spell characters that training has not seen
BYTE = re.compile("<0x[0-9A-F]{2}>")
Level = Literal["words", "english", "characters", "bpe"]


def english() -> Callable[[str], list[str]]:
    """torchtext's `basic_english`: lower-cased words and punctuation."""
    try:
        from torchtext.data.utils import get_tokenizer
    except (ImportError, OSError) as error:  # 0.18 fails on symbols that torch no longer has
        raise ConfigError(
            f"torchtext does not load ({str(error).splitlines()[0][:100]}); run: pip install torchtext==0.6.0"
        ) from None
    return get_tokenizer("basic_english")


class Tokenizer:
    """Splits text into tokens, and joins tokens to text.

    `words` are separated by white space, `english` are the words and punctuation of torchtext's `basic_english`,
    `characters` are single ones, and `bpe` are subwords (Sennrich et al. 2016) of a sentencepiece model that `learn_bpe`
    made. A line of words ends with `<eos>`; a line of characters ends with a line feed, which is one of them.

    Subwords lose nothing: `join` gives back any text. Each line is encoded with a space before it, so that its first word
    has the same subwords as elsewhere; characters that training has not seen are spelled by subwords of one byte each.
    """

    def __init__(self, level: Level, model: bytes | None = None) -> None:
        self.level, self.model = level, model
        splitters = {"words": str.split, "english": english() if level == "english" else None, "characters": list}
        self.splitter = splitters.get(level)
        if level == "bpe":
            from sentencepiece import SentencePieceProcessor

            assert model is not None
            self.processor = SentencePieceProcessor(model_proto=model)

    def __call__(self, text: str, starts_line: bool = True) -> list[str]:
        """The tokens of a chunk of text, which may end within a line, and starts within one unless `starts_line`."""
        if self.splitter is not None:
            return self.splitter(text if self.level == "characters" else text.replace("\n", f" {END} "))
        first, *others = text.split("\n")
        lines = self.subwords(
            [f" {first}" if starts_line and first else first, *(f" {line}" if line else "" for line in others)]
        )
        for tokens in lines[:-1]:
            tokens.append(END)
        return [token for tokens in lines for token in tokens]

    def lines(self, lines: Sequence[str]) -> list[list[str]]:
        """The tokens of each line, without its end."""
        if self.splitter is not None:
            return [self.splitter(line) for line in lines]
        return self.subwords([f" {line}" if line else "" for line in lines])

    def subwords(self, texts: list[str]) -> list[list[str]]:
        """The subwords of each text. The character that sentencepiece writes for a space is spelled by its bytes."""
        encoded: list[list[str]] = self.processor.encode(texts, out_type=str)
        for number, text in enumerate(texts):
            if SPACE in text:
                first, *others = self.processor.encode(text.split(SPACE), out_type=str)
                spelled = [f"<0x{byte:02X}>" for byte in SPACE.encode()]
                encoded[number] = [*first, *itertools.chain.from_iterable([*spelled, *part] for part in others)]
        return encoded

    def join(self, tokens: Iterable[str]) -> str:
        """The text of these tokens."""
        if self.level == "characters":
            return "".join(tokens)
        if self.level == "bpe":
            text = b"".join(map(bytes_of, tokens)).decode(errors="replace")
            return text.removeprefix(" ").replace("\n ", "\n")
        text = " ".join("\n" if token == END else token for token in tokens)
        return "\n".join(line.strip() for line in text.split("\n"))

    def describe(self) -> dict[str, Any]:
        """Plain values from which `described` makes an equal tokenizer."""
        model = None if self.model is None else base64.b64encode(self.model).decode()
        return {"level": self.level, "model": model}

    @classmethod
    def described(cls, description: Mapping[str, Any]) -> "Tokenizer":
        """Raises CheckpointError for any other values, since a checkpoint holds them that anybody may have written."""
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
    """The UTF-8 bytes of a subword, which may be a part of a character."""
    if BYTE.fullmatch(subword):
        return bytes.fromhex(subword[3:5])
    return b"\n" if subword == END else subword.replace(SPACE, " ").encode(errors="replace")


def sentencepiece_version() -> str:
    import sentencepiece

    return str(sentencepiece.__version__)


def learn_bpe(lines: Iterable[str], size: int, specials: Sequence[str] = (UNKNOWN, END)) -> bytes:
    """A sentencepiece model of `size` - 1 subwords, the `specials` and 256 subwords of one byte each.

    It is trained on the first million lines. The text is not normalized, so that decoding is lossless. Longer lines than
    sentencepiece reads, which it would leave out, are split. Raises ConfigError for more subwords than the lines yield, or
    fewer than they have characters.
    """
    import sentencepiece

    model = io.BytesIO()
    short_lines = (
        f" {part}"
        for line in lines
        for part in ([line] if len(line) < MAX_LINE else textwrap.wrap(line, MAX_LINE, break_on_hyphens=False))
    )
    special_ids: dict[str, Any] = {}
    for name, token in (("pad", PAD), ("unk", UNKNOWN), ("bos", BEGIN), ("eos", END)):
        special_ids |= {f"{name}_piece": token, f"{name}_id": specials.index(token) if token in specials else -1}
    extra = BYTES + len(specials) - 1
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.islice(short_lines, 1_000_000),
            model_writer=model,
            model_type="bpe",
            vocab_size=size + extra,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            minloglevel=2,
            **special_ids,
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
        raise ConfigError(f"data.bpe_vocab_size={size} cannot be learned from this text; {advice}") from None
    return model.getvalue()


class Vocabulary:
    """A mapping of words to ids 0 … len - 1; any other word has the id of `<unk>`. Methods are named as in torchtext 0.18."""

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
        min_freq: int = 1,
        specials: Sequence[str] = (UNKNOWN,),
        max_size: int | None = None,
    ) -> "Vocabulary":
        """The specials, then the words that occur at least `min_freq` times by falling frequency, ties alphabetically.

        `tokens` are those of a text, or their counts; `max_size` includes the specials.
        """
        from torchtext.vocab import Vocab

        most = None if max_size is None else max(max_size - len(specials), 0)
        counts = Counter(tokens)
        return cls(Vocab(counts, max_size=most, min_freq=min_freq, specials=list(specials), specials_first=True).itos)

    @classmethod
    def of_text(
        cls,
        tokenizer: Tokenizer,
        counts: Mapping[str, int],
        min_freq: int,
        specials: Sequence[str],
        max_size: int | None = None,
    ) -> "Vocabulary":
        """The vocabulary of a text: for `bpe` all subwords of the model, else `build` from the counts of its tokens.

        Raises ConfigError if no token occurs `min_freq` times.
        """
        if tokenizer.level == "bpe":
            model = tokenizer.processor
            return cls([model.id_to_piece(id) for id in range(model.get_piece_size())])
        most = max((count for token, count in counts.items() if token not in specials), default=min_freq)
        if most < min_freq:
            raise ConfigError(
                f"data.min_freq is {min_freq}, and the most frequent token of the training text has a count of {most}; lower it"
            )
        return cls.build(counts, min_freq, specials, max_size)

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
