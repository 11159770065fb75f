"""word2vec: what surrounds a word tells what it means. Mikolov et al. 2013, *Distributed representations of words*.

N words that were kept, in G blocks of K; w words of a window to each side; S negatives that a block shares; D width,
V vocabulary.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref import operators
from dlref.errors import ConfigError, DataError
from dlref.interfaces import InputOutputEmbeddings, declares
from dlref.metrics import Mean, Totals
from dlref.objectives import Carrying, at_least_float32, text_parts
from dlref.objectives.fused.embedding_rows import look_up

TABULATED = 64  # words to a side, up to which there is a table of all windows
TABLE = 2**21  # entries from which negatives are drawn: as many of each word as its share


class Windows(NamedTuple):
    """Words in blocks, and which of their neighbours count."""

    around: Tensor  # [G, K + 2w] int64: a block's words, and w before and after them
    pairs: Tensor  # [G, K, 2w + 1] bool: whether the word at distance -w ... w is context of word k
    counts: Tensor  # [G, K, 1]: how many words of context each has

    @property
    def words(self) -> Tensor:  # [G, K]
        edge = self.pairs.shape[2] // 2
        return self.around[:, edge : self.around.shape[1] - edge]


def within(before: Tensor, after: Tensor, window: int) -> Tensor:  # [...] each -> [..., 2w + 1] bool
    """Which distances -w ... w are in a window of so many words before and after a word."""
    distance = torch.arange(-window, window + 1, device=before.device)
    return (distance >= -before[..., None]) & (distance <= after[..., None]) & (distance != 0)


@cache
def patterns(window: int, device: torch.device) -> Tensor:  # [(w + 1)², 2w + 1] bool
    """`within` of all windows of b words before and a after, in row b (w + 1) + a."""
    reach = torch.arange(window + 1, device=device)
    return within(reach[:, None], reach, window).flatten(0, 1)


def looked_up(before: Tensor, after: Tensor, window: int) -> Tensor:  # [N] each -> [N, 2w + 1] bool
    """`within`, from a table of all windows unless it is large: that is faster."""
    if window > TABULATED:
        return within(before, after, window)
    return patterns(window, before.device).index_select(0, before * (window + 1) + after)


class Word2Vec(Carrying):
    """What skip-gram and CBOW have in common: which words are kept, what their windows are, what is drawn as noise.

    From a text in columns each word is dropped with the chance that `subsample` t gives it, 1 - √(t/f) - t/f for a share f
    of the text; a window reaches `window` words of those left to each side, with `dynamic` `shortest` to `window`, drawn
    for each word anew, and never over the `end` of a sentence. `unknown` words are left out; either is a number of the
    vocabulary, and null makes it a word like any other. Without `negatives` the loss is the full softmax; with k of them
    each pair is told from k words drawn by their frequency to the `power` (Mikolov et al. 2013, equation 4). A block of
    consecutive words shares `shared` such words, each weighed so that they count as k for each pair.

    `loss` is in nats per word of the text, dropped ones included. A window that reaches into the next batch waits for it:
    carried are the last 2w words kept of each column [B, 2w], their sentences, and the sentence that goes on [B, 1].
    """

    net: Any

    def __init__(
        self,
        net: nn.Module,
        window: int = 5,
        dynamic: bool = True,
        subsample: float | None = 1e-3,
        negatives: int | None = 5,
        power: float = 0.75,
        block: int = 64,
        shared: int = 32,
        unknown: int | None = 0,
        end: int | None = 1,
        shortest: int = 1,
    ) -> None:
        super().__init__(net)
        if min(window, block, shared, 1 if negatives is None else negatives) < 1 or (
            subsample is not None and subsample <= 0
        ):
            raise ConfigError(
                f"objective.window is {window}, negatives {negatives}, block {block} and shared {shared}, 1 or more, and "
                f"subsample {subsample}, above 0"
            )
        if not 1 <= shortest <= window:
            raise ConfigError(f"objective.shortest is {shortest}; it takes 1 to objective.window, which is {window}")
        if not declares(net, InputOutputEmbeddings):
            raise ConfigError(f"word2vec learns WordEmbeddings, not {type(net).__name__}; choose model=word2vec")
        if negatives is None and self.net.output.sparse:
            raise ConfigError("the full softmax changes every row at each step; set network.sparse=false, or negatives")
        self.window, self.dynamic, self.shortest, self.subsample = window, dynamic, shortest, subsample
        self.negatives, self.power, self.block, self.shared = negatives, power, block, shared
        self.unknown, self.end = unknown, end
        if max(unknown or 0, end or 0) >= self.net.input.num_embeddings:
            raise ConfigError(
                f"objective.unknown is {unknown} and end {end}; they are numbers of words, of which there are "
                f"{self.net.input.num_embeddings}, or null"
            )
        self.counts = nn.Buffer(torch.zeros(self.net.input.num_embeddings, dtype=torch.int64))
        self.drawing: tuple[Tensor, Tensor] | None = None
        self.random: torch.Generator | None = None  # of its own in evaluation, which draws the same each time

    def fit(self, batches: Iterable[Any]) -> None:
        """How often each word occurs."""
        self.counts.zero_()
        for words in text_parts(batches):
            self.counts.index_add_(0, words, torch.ones_like(words))
        self.drawing = None

    def chances(self) -> tuple[Tensor, Tensor]:
        """Of each word the chance that it is kept [V], and the table from which negatives are drawn."""
        if self.drawing is None:
            counts = operators.as_float64(self.counts)
            for special in (self.unknown, self.end):
                if special is not None:
                    counts[special] = 0
            if (words := int((counts > 0).sum())) < 2:  # noise would be the word itself
                raise DataError(
                    f"word vectors take 2 different words or more, and the training text has {words}, without unknown words "
                    "and ends of lines; bring more text, or lower data.minimum"
                )
            if 2 * self.window >= (total := int(counts.sum())):
                raise ConfigError(
                    f"objective.window is {self.window}, and the training text has {total} words, in which no such window to "
                    "both sides fits; choose a smaller one"
                )
            ratio = (self.subsample or 1) * counts.sum() / counts
            kept = (ratio.sqrt() + ratio).clamp(max=1) if self.subsample else torch.ones_like(counts)
            ends = torch.where(counts > 0, counts**self.power, 0).cumsum(0)
            borders = (ends * (TABLE / ends[-1]) + 0.5).long()
            table = torch.arange(len(ends), dtype=torch.int32, device=ends.device).repeat_interleave(
                borders.diff(prepend=borders[:1] * 0)
            )
            self.drawing = (kept * (counts > 0)).float(), table
        return self.drawing

    @operators.uncompiled
    def noise(self, count: int) -> Tensor:  # [G, S]
        table = self.chances()[1]
        places = torch.randint(len(table), (count * self.shared,), device=table.device, generator=self.random)
        return table.index_select(0, places).long().view(count, self.shared)

    @operators.uncompiled  # how many words are kept is a size that a graph does not know
    def windows(self, batch: Any) -> Windows:
        """The words that are kept of what was carried over and of the batch, in blocks."""
        tokens, w = batch.tokens, self.window
        device = tokens.device
        state = None if batch.begins else self.states[self.training]
        if self.training:
            self.random = None
        elif batch.begins:
            self.random = torch.Generator(device).manual_seed(0)
        if state is None:  # nobody stands before the first word: none of these are in one sentence
            nobody = torch.arange(-2 * w, 0, device=device).expand(len(tokens), -1)
            state = torch.zeros_like(nobody), nobody, torch.zeros_like(nobody[:, :1])
        before, sentences, sentence = state
        # index_select copies rows several times as fast as an index in brackets.
        chances = self.chances()[0].index_select(0, tokens.flatten()).view_as(tokens)
        kept = torch.rand(tokens.shape, device=device, generator=self.random) < chances
        numbers = sentence + (torch.zeros_like(tokens) if self.end is None else (tokens == self.end).cumsum(1))
        kept = torch.cat([torch.ones_like(before, dtype=torch.bool), kept], 1)
        there = kept.flatten().nonzero().squeeze(1)
        words = torch.cat([before, tokens], 1).flatten().index_select(0, there)
        sentences = torch.cat([sentences, numbers], 1).flatten().index_select(0, there)
        lengths = kept.sum(1)[:, None]
        stops = lengths.cumsum(0)  # of each column, among the words kept
        carried = stops + torch.arange(-2 * w, 0, device=device)
        self.states[self.training] = words[carried], sentences[carried], numbers[:, -1:].clone()
        # The first and the last w of a column have not all of their window here: it was, or will be, in another batch.
        size = max(-(-(len(words) - 2 * w) // self.block), 1) * self.block
        pad = size + 2 * w - len(words)
        words, sentences = F.pad(words, (0, pad)), F.pad(sentences, (0, pad))
        whole = torch.ones(len(words), dtype=torch.bool, device=device)
        starts = stops - lengths
        near = torch.arange(w, device=device)
        whole[torch.cat([starts + near, stops - 1 - near], 1).flatten()] = False
        whole[len(words) - pad :] = False
        here = slice(w, w + size)
        low = self.shortest
        reach = torch.randint(low, w + 1, (size,), device=device, generator=self.random) if self.dynamic else w
        reach = whole[here] * reach
        # How far a sentence goes on to both sides of each word. Columns meet where no window is whole.
        breaks = sentences[1:] != sentences[:-1]
        begins = F.pad(breaks.nonzero().squeeze(1) + 1, (1, 0))
        ends = F.pad(begins[1:], (0, 1), value=len(words))
        number, place = F.pad(breaks.cumsum(0), (1, 0))[here], torch.arange(w, w + size, device=device)
        left = torch.minimum(place - begins.index_select(0, number), reach)
        right = torch.minimum(ends.index_select(0, number) - 1 - place, reach)
        pairs = looked_up(left, right, w).view(-1, self.block, 2 * w + 1)
        around = words.unfold(0, self.block + 2 * w, self.block)
        return Windows(around, pairs, (left + right).view(-1, self.block, 1))


class SkipGram(Word2Vec):
    """A word foretells each word of its window, apart: -log σ(u_c · v_w) - k E log σ(-u_n · v_w) for each pair."""

    def forward(self, batch: Any) -> Totals:
        windows = self.windows(batch)
        inputs = look_up(self.net.input, windows.words)  # [G, K, D]
        if self.negatives is None:
            logs = at_least_float32(F.linear(inputs, self.net.output.weight)).log_softmax(2)
            context = windows.around.unfold(1, windows.pairs.shape[2], 1)  # [G, K, 2w + 1]
            loss = -(logs.gather(2, context) * windows.pairs).sum()
        else:
            noise = self.noise(len(windows.around))
            outputs = look_up(self.net.output, torch.cat([windows.around, noise], 1))  # [G, K + 2w + S, D]
            share = windows.counts.to(self.net.input.weight.dtype) * (self.negatives / self.shared)
            loss = Banded.apply(inputs, outputs, windows.pairs, share)
        return {"loss": Mean(loss, batch.tokens.numel())}


class CBOW(Word2Vec):
    """The mean of a window's words foretells the word in its midst."""

    def forward(self, batch: Any) -> Totals:
        windows = self.windows(batch)
        context = look_up(self.net.input, windows.around)  # [G, K + 2w, D]
        there = windows.counts > 0  # [G, K, 1]
        counts = windows.counts.clamp(min=1).to(self.net.input.weight.dtype)
        weights = band_matrix((windows.pairs / counts).to(context.dtype))
        means = weights @ context  # [G, K, D]
        if self.negatives is None:
            logs = at_least_float32(F.linear(means, self.net.output.weight)).log_softmax(2)
            loss = -(logs.gather(2, windows.words[..., None]) * there).sum()
        else:
            noise = self.noise(len(windows.around))
            outputs = look_up(self.net.output, torch.cat([windows.words, noise], 1))  # [G, K + S, D]
            loss = Banded.apply(means, outputs, there, there.to(counts.dtype) * (self.negatives / self.shared))
        return {"loss": Mean(loss, batch.tokens.numel())}


def band(matrix: Tensor, width: int) -> Tensor:  # [G, K, E] -> [G, K, width], a view
    """Of row k the entries k ... k + width - 1."""
    blocks, rows, columns = matrix.shape
    return matrix.as_strided((blocks, rows, width), (rows * columns, columns + 1, 1))


def band_matrix(entries: Tensor) -> Tensor:  # [G, K, W] -> [G, K, K + W - 1]
    """The matrix whose band these are; 0 elsewhere."""
    blocks, rows, width = entries.shape
    matrix = entries.new_zeros(blocks, rows, rows + width - 1)
    band(matrix, width).copy_(entries)
    return matrix


class Banded(torch.autograd.Function):
    """-Σ log σ(s) over the pairs in a band of the scores, and -Σ share · log σ(-s) over the last columns, the negatives.

    inputs [G, K, D], outputs [G, K + W - 1 + S, D], whose products are the scores; pairs [G, K, W] bool, share [G, K, 1] ->
    scalar. σ is taken once, for the loss and its slopes σ(s) - 1 and share · σ(s), and only where they are not 0.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, outputs: Tensor, pairs: Tensor, share: Tensor) -> Tensor:
        scores, width = inputs @ outputs.mT, pairs.shape[2]
        # Below -80 a score counts as -80, whose σ is not yet 0.
        near = at_least_float32(band(scores, width)).clamp(min=-80)
        noise = at_least_float32(scores[:, :, scores.shape[1] + width - 1 :]).clamp(min=-80)
        right, wrong = near.sigmoid_(), noise.sigmoid()  # the chance that a pair is told from noise, and noise is not
        apart = wrong.log().sub_(noise)  # log σ(-s), exact also where σ(s) rounds to 1
        ctx.save_for_backward(inputs, outputs, pairs, share, right, wrong)
        return -(right.log().mul_(pairs).sum() + (apart.sum(2, True) * share).sum())

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None, None]:
        inputs, outputs, pairs, share, right, wrong = ctx.saved_tensors
        slopes = inputs.new_zeros(len(inputs), inputs.shape[1], outputs.shape[1])
        band(slopes, pairs.shape[2]).copy_((right - 1).mul_(pairs).mul_(slope))
        slopes[:, :, -wrong.shape[2] :] = wrong * (share * slope)
        return slopes @ outputs, slopes.mT @ inputs, None, None
