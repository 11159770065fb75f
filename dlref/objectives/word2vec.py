"""word2vec: skip-gram and CBOW (Mikolov et al. 2013, *Distributed representations of words and phrases*).

N words kept by subsampling, in G blocks of K; a window reaches w words to each side; S negatives that a block shares; B
streams of T tokens; D width, V vocabulary.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref import operators
from dlref.errors import ConfigError, DataError
from dlref.interfaces import InputOutputEmbeddings, TokenBatch, declares
from dlref.metrics import Mean, Totals
from dlref.objectives import Carrying, at_least_float32, text_chunks
from dlref.objectives.fused.embedding_rows import embed
from dlref.objectives.fused.negative_sampling import BandedNegativeSampling, band_matrix

LARGEST_TABULATED = 64  # window up to which the masks of all windows are tabulated
TABLE_SIZE = 2**21  # entries of the table from which negatives are sampled


class Windows(NamedTuple):
    """Blocks of words with the windows around them."""

    span: Tensor  # [G, K + 2w] int64: the words of a block, and w words before and after them
    pairs: Tensor  # [G, K, 2w + 1] bool: whether the word at distance -w … w is in the window of word k
    counts: Tensor  # [G, K, 1]: how many words are in each window

    @property
    def words(self) -> Tensor:  # [G, K]
        window = self.pairs.shape[2] // 2
        return self.span[:, window : self.span.shape[1] - window]


class KeptWords(NamedTuple):
    """The words kept by subsampling, of all streams one after the other."""

    words: Tensor  # [N] int64
    sentences: Tensor  # [N] int64: the number of each word's sentence
    lengths: Tensor  # [B, 1]: how many words each stream has


def window_mask(before: Tensor, after: Tensor, window: int) -> Tensor:  # [...], [...] -> [..., 2w + 1] bool
    """Which distances -w … w lie in a window of so many words before and after a word."""
    distance = torch.arange(-window, window + 1, device=before.device)
    return (distance >= -before[..., None]) & (distance <= after[..., None]) & (distance != 0)


@cache
def window_mask_table(window: int, device: torch.device) -> Tensor:  # [(w + 1)², 2w + 1] bool
    """`window_mask` of b words before and a after, in row b (w + 1) + a."""
    sizes = torch.arange(window + 1, device=device)
    return window_mask(sizes[:, None], sizes, window).flatten(0, 1)


def tabulated_window_mask(before: Tensor, after: Tensor, window: int) -> Tensor:  # [N], [N] -> [N, 2w + 1] bool
    """`window_mask`, read from a table unless that would be large, which is faster."""
    if window > LARGEST_TABULATED:
        return window_mask(before, after, window)
    return window_mask_table(window, before.device).index_select(0, before * (window + 1) + after)


class Word2Vec(Carrying[TokenBatch]):
    """Base of skip-gram and CBOW: subsampling of frequent words, windows, and negative samples.

    A word with relative frequency f is kept with probability √(t/f) + t/f, where t is `subsample`. Windows are taken from
    the kept words and reach `window` words to each side or, with `dynamic_window`, a random number of words from
    `min_window` to `window`; they never cross the end of a sentence, token `eos_id`. Tokens `unk_id` are left out. Null for
    either id makes that token an ordinary word.

    With k `negatives` each pair is contrasted with k words sampled with probabilities proportional to their frequency to the
    power `ns_exponent` (Mikolov et al. 2013, equation 4). The words of a block of `block_size` share `shared_negatives` of
    them, weighted so that they count as k for each pair. Without `negatives` the loss is the full softmax.

    `loss` is in nats per word of the text, including the words that were not kept. Words whose windows reach into the next
    batch wait for it: the state carried over is the last 2w kept words of each stream [B, 2w], the numbers of their
    sentences [B, 2w], and the number of the sentence at the end [B, 1].
    """

    net: Any  # WordEmbeddings

    def __init__(
        self,
        net: nn.Module,
        window: int = 5,
        dynamic_window: bool = True,
        min_window: int = 1,
        subsample: float | None = 1e-3,
        negatives: int | None = 5,
        ns_exponent: float = 0.75,
        block_size: int = 64,
        shared_negatives: int = 32,
        unk_id: int | None = 0,
        eos_id: int | None = 1,
    ) -> None:
        super().__init__(net)
        counts = (window, block_size, shared_negatives, 1 if negatives is None else negatives)
        if min(counts) < 1 or (subsample is not None and subsample <= 0):
            raise ConfigError(
                f"objective.window is {window}, negatives {negatives}, block_size {block_size} and shared_negatives "
                f"{shared_negatives}, 1 or more, and subsample {subsample}, above 0"
            )
        if not 1 <= min_window <= window:
            raise ConfigError(
                f"objective.min_window is {min_window}; it takes 1 to objective.window, which is {window}"
            )
        if not declares(net, InputOutputEmbeddings):
            raise ConfigError(f"word2vec trains WordEmbeddings, not {type(net).__name__}; choose model=word2vec")
        if negatives is None and self.net.output.sparse:
            raise ConfigError("the full softmax changes every row at each step; set network.sparse=false, or negatives")
        vocab_size = self.net.input.num_embeddings
        if max(unk_id or 0, eos_id or 0) >= vocab_size:
            raise ConfigError(
                f"objective.unk_id is {unk_id} and eos_id {eos_id}; they take ids below {vocab_size}, or null"
            )
        self.window, self.dynamic_window, self.min_window = window, dynamic_window, min_window
        self.subsample, self.negatives, self.ns_exponent = subsample, negatives, ns_exponent
        self.block_size, self.shared_negatives = block_size, shared_negatives
        self.unk_id, self.eos_id = unk_id, eos_id
        self.counts = nn.Buffer(torch.zeros(vocab_size, dtype=torch.int64))
        self.tables: tuple[Tensor, Tensor] | None = None
        self.generator: torch.Generator | None = None  # of its own in evaluation, which samples the same every time

    def fit(self, batches: Iterable[Any]) -> None:
        """Count how often each word occurs."""
        self.counts.zero_()
        for words in text_chunks(batches):
            self.counts.index_add_(0, words, torch.ones_like(words))
        self.tables = None

    def sampling_tables(self) -> tuple[Tensor, Tensor]:
        """The probability that each word is kept [V], and a table of words from which negatives are sampled uniformly."""
        if self.tables is None:
            counts = operators.as_float64(self.counts)
            for special in (self.unk_id, self.eos_id):
                if special is not None:
                    counts[special] = 0
            if (words := int((counts > 0).sum())) < 2:  # a negative would be the word itself
                raise DataError(
                    f"word vectors take 2 different words or more, and the training text has {words}, without unknown words "
                    "and ends of lines; bring more text, or lower data.min_freq"
                )
            if 2 * self.window >= (total := int(counts.sum())):
                raise ConfigError(
                    f"objective.window is {self.window}, and the training text has {total} words, in which no such window to "
                    "both sides fits; choose a smaller one"
                )
            ratio = (self.subsample or 1) * counts.sum() / counts  # t/f
            keep = (ratio.sqrt() + ratio).clamp(max=1) if self.subsample else torch.ones_like(counts)
            cumulative = torch.where(counts > 0, counts**self.ns_exponent, 0).cumsum(0)
            ends = (cumulative * (TABLE_SIZE / cumulative[-1]) + 0.5).long()
            word_ids = torch.arange(len(ends), dtype=torch.int32, device=ends.device)
            negatives_table = word_ids.repeat_interleave(ends.diff(prepend=ends[:1] * 0))
            self.tables = (keep * (counts > 0)).float(), negatives_table
        return self.tables

    @operators.uncompiled
    def sample_negatives(self, blocks: int) -> Tensor:  # [G, S]
        table = self.sampling_tables()[1]
        size = (blocks * self.shared_negatives,)
        positions = torch.randint(len(table), size, device=table.device, generator=self.generator)
        return table.index_select(0, positions).long().view(blocks, self.shared_negatives)

    @operators.uncompiled  # how many words are kept is a size that a graph does not know
    def windows(self, batch: TokenBatch) -> Windows:
        """The windows of the words kept from the batch and the words carried over, in blocks."""
        kept = self.subsampled(batch)
        w, count = self.window, len(kept.words)
        size = max(-(-(count - 2 * w) // self.block_size), 1) * self.block_size  # of complete blocks
        padding = size + 2 * w - count
        words, sentences = F.pad(kept.words, (0, padding)), F.pad(kept.sentences, (0, padding))
        reach = self.window_reach(kept.lengths, count, size)
        # A window ends where its sentence does. It never reaches into another stream, at whose edges the reach is 0.
        sentence_ends = sentences[1:] != sentences[:-1]
        first = F.pad(sentence_ends.nonzero().squeeze(1) + 1, (1, 0))
        last = F.pad(first[1:], (0, 1), value=len(words)) - 1
        position = torch.arange(w, w + size, device=words.device)
        sentence = F.pad(sentence_ends.cumsum(0), (1, 0))[w : w + size]
        before = torch.minimum(position - first.index_select(0, sentence), reach)
        after = torch.minimum(last.index_select(0, sentence) - position, reach)
        pairs = tabulated_window_mask(before, after, w).view(-1, self.block_size, 2 * w + 1)
        span = words.unfold(0, self.block_size + 2 * w, self.block_size)
        return Windows(span, pairs, (before + after).view(-1, self.block_size, 1))

    def subsampled(self, batch: TokenBatch) -> KeptWords:
        """Words carried over and words kept from the batch; carries the last 2w words of each stream."""
        tokens, w = batch.tokens, self.window
        device = tokens.device
        state = None if batch.reset_state else self.states[self.training]
        if self.training:
            self.generator = None
        elif batch.reset_state:
            self.generator = torch.Generator(device).manual_seed(0)
        if state is None:  # placeholders before the first word, each in a sentence of its own
            numbers = torch.arange(-2 * w, 0, device=device).expand(len(tokens), -1)
            state = torch.zeros_like(numbers), numbers, torch.zeros_like(numbers[:, :1])
        carried_words, carried_sentences, sentence = state
        # index_select copies rows several times as fast as indexing with brackets.
        keep = self.sampling_tables()[0].index_select(0, tokens.flatten()).view_as(tokens)
        kept = torch.rand(tokens.shape, device=device, generator=self.generator) < keep
        ends = torch.zeros_like(tokens) if self.eos_id is None else (tokens == self.eos_id).cumsum(1)
        sentences = sentence + ends
        kept = torch.cat([torch.ones_like(carried_words, dtype=torch.bool), kept], 1)
        positions = kept.flatten().nonzero().squeeze(1)
        words = torch.cat([carried_words, tokens], 1).flatten().index_select(0, positions)
        word_sentences = torch.cat([carried_sentences, sentences], 1).flatten().index_select(0, positions)
        lengths = kept.sum(1)[:, None]
        carried = lengths.cumsum(0) + torch.arange(-2 * w, 0, device=device)
        self.states[self.training] = words[carried], word_sentences[carried], sentences[:, -1:].clone()
        return KeptWords(words, word_sentences, lengths)

    def window_reach(self, lengths: Tensor, count: int, size: int) -> Tensor:  # [B, 1] -> [size]
        """How far each window reaches; 0 where a part of it belongs to another batch, or for padding.

        Of `count` words the first and the last w of each stream have a part of their window in the batch before or after,
        which counts them.
        """
        w, device = self.window, lengths.device
        stops = lengths.cumsum(0)
        complete = torch.ones(size + 2 * w, dtype=torch.bool, device=device)
        edge = torch.arange(w, device=device)
        complete[torch.cat([stops - lengths + edge, stops - 1 - edge], 1).flatten()] = False
        complete[count:] = False
        if not self.dynamic_window:
            return complete[w : w + size] * w
        reach = torch.randint(self.min_window, w + 1, (size,), device=device, generator=self.generator)
        return complete[w : w + size] * reach


class SkipGram(Word2Vec):
    """Predicts each word of a window from its center word: -log σ(u_c · v_w) - k E log σ(-u_n · v_w) for each pair."""

    def forward(self, batch: TokenBatch) -> Totals:
        windows = self.windows(batch)
        inputs = embed(self.net.input, windows.words)  # [G, K, D]
        if self.negatives is None:
            log_probabilities = at_least_float32(F.linear(inputs, self.net.output.weight)).log_softmax(2)  # [G, K, V]
            context = windows.span.unfold(1, windows.pairs.shape[2], 1)  # [G, K, 2w + 1]
            loss = -(log_probabilities.gather(2, context) * windows.pairs).sum()
        else:
            negatives = self.sample_negatives(len(windows.span))
            outputs = embed(self.net.output, torch.cat([windows.span, negatives], 1))  # [G, K + 2w + S, D]
            weights = windows.counts.to(self.net.input.weight.dtype) * (self.negatives / self.shared_negatives)
            loss = BandedNegativeSampling.apply(inputs, outputs, windows.pairs, weights)
        return {"loss": Mean(loss, batch.tokens.numel())}


class CBOW(Word2Vec):
    """Predicts the center word of a window from the mean of the window's vectors."""

    def forward(self, batch: TokenBatch) -> Totals:
        windows = self.windows(batch)
        context = embed(self.net.input, windows.span)  # [G, K + 2w, D]
        has_context = windows.counts > 0  # [G, K, 1]
        counts = windows.counts.clamp(min=1).to(self.net.input.weight.dtype)
        means = band_matrix((windows.pairs / counts).to(context.dtype)) @ context  # [G, K, D]
        if self.negatives is None:
            log_probabilities = at_least_float32(F.linear(means, self.net.output.weight)).log_softmax(2)  # [G, K, V]
            loss = -(log_probabilities.gather(2, windows.words[..., None]) * has_context).sum()
        else:
            negatives = self.sample_negatives(len(windows.span))
            outputs = embed(self.net.output, torch.cat([windows.words, negatives], 1))  # [G, K + S, D]
            weights = has_context.to(counts.dtype) * (self.negatives / self.shared_negatives)
            loss = BandedNegativeSampling.apply(means, outputs, has_context, weights)
        return {"loss": Mean(loss, batch.tokens.numel())}
