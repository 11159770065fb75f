"""Optional capabilities of networks and data: a class has one if it inherits from its interface.

A name alone declares nothing: an attribute `context` or a method `hidden` of a class without the interface is ignored. Each
interface lists the members that a class has to provide. B batch, T and S time, D width, V vocabulary.
"""

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]  # of a network between tokens; each [B, ...], so that rows can be reordered
logger = logging.getLogger("dlref")
hinted: set[tuple[type, type]] = set()  # classes and interfaces that have been warned about


class Interface:
    """Base of all interfaces. A class has to provide its methods and its annotated attributes."""


I_ = TypeVar("I_", bound=Interface)


# Networks


class Hidden(NamedTuple):
    """Final hidden states of a language model, and its state after the last token."""

    dropped: Tensor  # [B, T, D], the input of the output layer
    raw: Tensor  # [B, T, D], the same before dropout
    state: State


class HasOutputLayer(Interface):
    """A network whose output layer `out` maps final hidden states [..., D] to logits [..., V]: one row of weights per token."""

    out: nn.Linear


class LanguageModel(HasOutputLayer):
    """A language model with logits `out(hidden.dropped)`, so that a fused loss need not keep the logits in memory."""

    def hidden(self, tokens: Tensor, state: State | None = None) -> Hidden:
        """Final hidden states for tokens [B, T], after a state of earlier tokens if there is one."""
        raise NotImplementedError


class EncoderDecoder(HasOutputLayer):
    """A sequence-to-sequence network that is trained by teacher forcing, with logits `out(hidden)`."""

    def hidden(self, source: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
        """Final hidden states [B, T, D] for target tokens [B, T], given sources [B, S] whose real tokens are `visible`."""
        raise NotImplementedError


class FixedContext(Interface):
    """A network that sees at most `context` tokens and carries no state, so that evaluation reads windows of that length."""

    context: int


class Decoder(Interface):
    """A network that decodes token by token."""

    def step(self, state: State, token: Tensor) -> tuple[Tensor, State]:
        """Logits of the next token [B, V], up to a constant, and the state after one more token [B]."""
        raise NotImplementedError


class TextDecoder(Decoder):
    """A language model that continues a text."""

    def prefill(self, context: Tensor) -> State:
        """The state after tokens [B, T]; T may be 0."""
        raise NotImplementedError


class Seq2SeqDecoder(Decoder):
    """An encoder-decoder that decodes a target for a source."""

    def prefill(self, source: Tensor, visible: Tensor) -> State:
        """The state before the first target token, given sources [B, S] whose real tokens are `visible` [B, S]."""
        raise NotImplementedError


class HasSelfAttention(Interface):
    """A language model that returns its self-attention weights."""

    def attention_weights(self, tokens: Tensor) -> Tensor:
        """Attention weights [B, layers, heads, T, T] of tokens [B, T]."""
        raise NotImplementedError


class HasCrossAttention(Interface):
    """A decoder that returns its attention weights over the source, if `attends`."""

    attends: bool

    def attention_weights(self, source: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
        """Attention weights [B, T, S] or [B, layers, heads, T, S] of target tokens [B, T]."""
        raise NotImplementedError


class WordVectors(Interface):
    """A network with word vectors, by which words can be compared."""

    def vectors(self) -> Tensor:
        """Word vectors [V, D], one row for each word of the vocabulary."""
        raise NotImplementedError


class InputOutputEmbeddings(Interface):
    """The two embeddings of word2vec: of words that are looked up, and of words that are predicted."""

    input: nn.Embedding
    output: nn.Embedding


class CountTable(Interface):
    """A network whose buffer `table` [V, D] an objective fits in closed form."""

    table: Tensor


class NGramTables(Interface):
    """An n-gram model of this order, whose tables an objective fits in closed form: see `dlref.models.ngram`."""

    order: int
    vocab_size: int
    unigrams: Tensor
    keys: Tensor
    backoff: Tensor
    ends: Tensor
    words: Tensor
    probabilities: Tensor


class FitsInputs(Interface):
    """A network with parts that are fitted to all training inputs before the first step, such as principal components."""

    def fit(self, inputs: Iterable[Tensor]) -> None:
        """Fit these parts to all training inputs, in chunks [B, ...]."""
        raise NotImplementedError


class LinearProjection(Interface):
    """A layer that multiplies flattened inputs by `directions` [inputs, components]."""

    directions: Tensor


class ActorCritic(Interface):
    """A policy network with a critic, which estimates the value of a state."""

    def policy_and_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Policy logits [B, actions], as `forward` returns them, and values [B] of states [B, ...]."""
        raise NotImplementedError


class Denoiser(Interface):
    """A classifier that also reconstructs its inputs from noisy ones."""

    def denoise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [B, outputs], and the squared error of each sample's reconstruction [B]."""
        raise NotImplementedError


# Data


class Shard(NamedTuple):
    """The part of every batch that belongs to this process: number `rank` of `ranks`."""

    rank: int = 0
    ranks: int = 1

    def share(self, start: int, stop: int) -> slice:
        """This rank's consecutive part of the rows start..stop; the parts of all ranks tile them."""
        rows = stop - start
        return slice(start + rows * self.rank // self.ranks, start + rows * (self.rank + 1) // self.ranks)


class TokenBatch(NamedTuple):
    """The next segment of every stream of a text."""

    tokens: Tensor  # [B, T] int64
    targets: Tensor  # [B, T] int64: the token after each; of overlapping windows [B, S], after each of the last S
    reset_state: bool  # the streams start here and carry no state; else row b continues row b of the last batch


class PairBatch(NamedTuple):
    """B pairs of a source and a target; S and T are the lengths of the longest ones, with END."""

    source: Tensor  # [B, S] int64: the source and END, then PAD
    visible: Tensor  # [B, S] bool: where the source is not padding
    tokens: Tensor  # [B, T] int64: BEGIN and the target, then PAD; the decoder's input
    targets: Tensor  # [B, T] int64: the target and END, then PAD
    counted: Tensor  # [B, T] bool: where the targets are not padding


class ExampleBatch(Protocol):
    """B inputs with their targets."""

    inputs: Tensor  # [B, ...]
    targets: Tensor  # [B] or [B, D]


class TransitionBatch(Protocol):
    """B transitions of n steps, sampled from experience."""

    states: Tensor  # [B, ...]
    actions: Tensor  # [B] int64
    rewards: Tensor  # [B, n]
    steps: Tensor  # [B] int64: number of steps, 1 to n
    next_states: Tensor  # [B, ...], after the last step
    terminated: Tensor  # [B] bool


class RolloutBatch(Protocol):
    """T steps of E environments under the current policy."""

    states: Tensor  # [T, E, ...]
    actions: Tensor  # [T, E] int64
    rewards: Tensor  # [T, E]
    next_states: Tensor  # [T, E, ...]
    terminated: Tensor  # [T, E] bool
    ended: Tensor  # [T, E] bool: terminated or truncated
    valid: Tensor  # [T, E] bool: false where an environment took no step


@runtime_checkable
class Data(Protocol):
    """The members of every data set. Constructors take plain keyword arguments, including `seed` and `batch_size`.

    `batch_size` is the number of rows of one batch over all ranks, so the number of ranks changes the speed, not the result.
    Further capabilities (rows, texts, settings that decide what is held out) are declared by the interfaces below.
    """

    unit: str  # of the throughput: samples, tokens, words, steps

    @property
    def sizes(self) -> dict[str, int]:
        """Input and output sizes of the network, by the name of its constructor's argument."""

    @property
    def batches_per_epoch(self) -> float:
        """Number of batches of one epoch of the training split."""

    def units_per_batch(self, ranks: int) -> float:
        """Number of units of one training batch over all ranks."""

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Iterator[Any]:
        """Endless training batches from number `first_batch` on, on the device of `net`."""

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Iterator[Any]:
        """One epoch of this rank's part of `train`, `eval` or `test`; raises DataError for a missing split."""

    def has(self, split: str) -> bool:
        """Whether this split exists."""

    def describe(self) -> dict[str, Any]:
        """The plain values that using a trained model requires: vocabulary, normalization, names of classes."""

    def state_dict(self) -> dict[str, Any]:
        """The state that the next training batch depends on; empty if it is a function of (seed, batch number, rank)."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`, before `train_batches`."""


class HeldOut(Interface):
    """Data whose settings decide which rows are held out of training; evaluation with other values of these is refused."""

    split_settings: Sequence[str]  # the names of these settings, including `seed` if it is one


class HasSummary(Interface):
    """Data with a summary of what they have read."""

    def summary(self) -> list[str]:
        """Lines that are printed when training starts."""
        raise NotImplementedError


class HasRoot(Interface):
    """Its files lie below `root`, a folder for all data sets; None stands for the default one."""

    root: Path | None


class Rows(Interface):
    """Examples in memory: pairs of an input and a target."""

    classes: Sequence[str] = ()

    def split(self, split: str) -> tuple[Tensor, Tensor]:
        """Inputs [N, ...] of a split, as they are stored, and targets [N] or [N, D]."""
        raise NotImplementedError

    def prepare(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """Inputs of the network, from inputs as they are stored."""
        raise NotImplementedError


class NamedTargets(Interface):
    """Named targets: `task` is `regression`, `classification` or `multilabel`, `target_columns` describes each target."""

    task: str
    target_columns: Sequence[Mapping[str, Any]]


class TokenIds(Protocol):
    """A vocabulary: tokens and their ids. `unknown` is the id of tokens that it lacks, `end` that of `<eos>` if it has one."""

    unknown: int
    end: int | None

    def lookup_indices(self, tokens: Iterable[str]) -> list[int]: ...

    def lookup_token(self, id: int) -> str: ...

    def lookup_tokens(self, ids: Iterable[int]) -> list[str]: ...

    def get_itos(self) -> list[str]: ...


class TextTokenizer(Protocol):
    """Splits text into tokens, and joins tokens to text."""

    def __call__(self, text: str) -> list[str]: ...

    def join(self, tokens: Iterable[str]) -> str: ...


class LineCodec(Protocol):
    """Encodes lines of one language as ids, and decodes ids; `pad`, `unknown`, `begin` and `end` are ids of special tokens."""

    pad: int
    unknown: int
    begin: int
    end: int

    @property
    def vocabulary(self) -> TokenIds: ...

    def encode(self, lines: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Padded ids [B, S] with `end` after each line, and which of them are visible [B, S]."""

    def decode(self, ids: Iterable[int]) -> str: ...


class HasVocabulary(Interface):
    """`vocabulary` maps words to ids, as `dlref.data.text.tokenizer.Vocabulary` does."""

    vocabulary: TokenIds


class CountedText(Interface):
    """Data whose tokens are those of a text, so that metrics per word and per character can be computed."""

    def text_size(self, split: str) -> dict[str, int]:
        """Numbers of predicted `tokens` of a split, and of `words` and `characters` of the text, where known."""
        raise NotImplementedError


class TokenizedText(HasVocabulary):
    """Text that `tokenizer` cuts into words, as `dlref.data.text.tokenizer.Tokenizer` does."""

    tokenizer: TextTokenizer

    def split(self, split: str) -> Tensor:
        """The ids of a split [N]."""
        raise NotImplementedError


class ParallelData(Interface):
    """Pairs of lines; `source` and `target` encode and decode, as `dlref.data.text.line_encoder.LineEncoder` does."""

    source: LineCodec
    target: LineCodec

    def texts(self, split: str) -> list[tuple[str, str]]:
        """The pairs of a split as they were read."""
        raise NotImplementedError


def members(interface: type[Interface]) -> dict[str, Any]:
    """The members that an interface requires, by name: its methods, and None for attributes."""
    found: dict[str, Any] = {}
    for base in interface.__mro__[: interface.__mro__.index(Interface)]:
        found |= {name: None for name in base.__annotations__ if name not in vars(base)}
        found |= {name: value for name, value in vars(base).items() if inspect.isfunction(value)}
    return found


def missing(part: object, interface: type[Interface]) -> list[str]:
    """The members of an interface that an object lacks; a method that is only inherited from it is missing too."""
    required = members(interface).items()
    return [
        name for name, body in required if not hasattr(part, name) or (body and getattr(type(part), name, part) is body)
    ]


def declares(part: object, interface: type[I_]) -> TypeGuard[I_]:
    """Whether the class of a network or of data inherits from the interface.

    One that does not, but has all its members, may have been meant to: a warning says so, once for each class.
    """
    if isinstance(part, interface):
        return True
    cls = type(part)
    if cls.__module__.partition(".")[0] != "dlref" and (cls, interface) not in hinted:
        hinted.add((cls, interface))
        if warning := hint(part, interface):
            logger.warning("%s", warning)
    return False


def hint(part: object, interface: type[Interface]) -> str:
    """A warning about an object that has all members of an interface and does not declare it, otherwise empty."""
    if isinstance(part, interface) or missing(part, interface):
        return ""
    names = " and ".join(members(interface))
    return (
        f"{type(part).__name__} has {names}, which dlref does not use, because the class does not declare them; "
        f"if it should, let it inherit dlref.interfaces.{interface.__name__}"
    )


def undelivered(part: object) -> list[str]:
    """The members that an object declares by an interface and lacks."""
    declared = [base for base in type(part).__mro__ if base.__module__ == __name__ and base is not Interface]
    return list(dict.fromkeys(name for base in declared for name in missing(part, base)))
