"""The losses of word2vec pair by pair equal those in blocks; co-occurrence counts and PPMI equal the fast path's."""

from typing import Any

import torch
from torch import Tensor

from dlref.equations import words
from dlref.interfaces import TokenBatch
from dlref.models.word_vectors import WordEmbeddings
from dlref.objectives import ppmi_svd
from dlref.objectives.word2vec import CBOW, SkipGram, Windows, Word2Vec
from tests.proofs.harness import agree, proves, random

# 9 words in 3 dimensions; 2 streams of 11 words with sentences that end at word 1, windows of 2, blocks of 4.
TOKENS = torch.tensor([[2, 5, 3, 1, 8, 2, 2, 7, 4, 1, 6], [5, 5, 8, 3, 6, 2, 1, 7, 2, 4, 3]])
BATCH = TokenBatch(TOKENS, TOKENS, True)
INPUTS, OUTPUTS = random(9, 3), random(9, 3, seed=1)


def fixed(kind: type[Word2Vec]) -> tuple[Word2Vec, Windows, Tensor]:
    """An objective with fixed windows and noise words [G, S]."""
    torch.manual_seed(3)
    objective = kind(WordEmbeddings(9, 3), window=2, subsample=None, negatives=2, block_size=4, shared_negatives=3)
    objective.fit([TOKENS.flatten()])
    windows = objective.windows(BATCH)
    noise = objective.sample_negatives(len(windows.span))
    objective.windows, objective.sample_negatives = lambda _: windows, lambda _: noise  # type: ignore[method-assign]
    return objective, windows, noise


def loss_of(objective: Word2Vec, inputs: Tensor, outputs: Tensor) -> Tensor:
    weights = {"net.input.weight": inputs, "net.output.weight": outputs}
    return torch.as_tensor(torch.func.functional_call(objective, weights, (BATCH,))["loss"].total)


def each_word(windows: Windows) -> list[tuple[int, int, list[int]]]:
    """Block, word and context of every word that has a context."""
    found = []
    for block, rows in enumerate(windows.pairs.tolist()):
        around = windows.span[block].tolist()
        for k, row in enumerate(rows):
            context = [around[k + j] for j, there in enumerate(row) if there]
            found += [(block, around[k + 2], context)] if context else []
    return found


@proves(words.dot)
def dot(equation: Any) -> None:
    agree(equation, torch.dot, random(4), random(4, seed=1))


@proves(words.negative_sampling)
def negative_sampling(equation: Any) -> None:
    def fast(vector: Tensor, target: Tensor, noise: Tensor) -> Tensor:
        logits = torch.stack([target, *noise]) @ vector
        labels = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
        weights = torch.tensor([1.0, 0.3, 0.3], dtype=torch.float64)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")

    agree(lambda v, u, n: equation(v, u, n, 0.3), fast, random(4), random(4, seed=1), random(2, 4))


@proves(words.skip_gram)
def skip_gram(equation: Any) -> None:
    objective, windows, noise = fixed(SkipGram)
    each = each_word(windows)
    pairs = [(word, other) for _, word, context in each for other in context]
    noise_words = [noise[block] for block, _, context in each for _ in context]
    assert len(pairs) == 30
    agree(
        lambda i, o: equation(i, o, pairs, torch.stack(noise_words), 2 / 3),
        lambda i, o: loss_of(objective, i, o),
        INPUTS,
        OUTPUTS,
    )


@proves(words.cbow)
def cbow(equation: Any) -> None:
    objective, windows, noise = fixed(CBOW)
    each = each_word(windows)
    noise_words = torch.stack([noise[block] for block, _, _ in each])
    agree(
        lambda i, o: equation(i, o, [(word, context) for _, word, context in each], noise_words, 2 / 3),
        lambda i, o: loss_of(objective, i, o),
        INPUTS,
        OUTPUTS,
    )


@proves(words.co_occurrence)
def co_occurrence(equation: Any) -> None:
    """Also where the segments of a text are shorter than a window."""
    text = TOKENS.flatten()
    for length in (1, 3, 7, 1000):
        found = ppmi_svd.co_occurrence(text.split(length), 4, 9)
        torch.testing.assert_close(equation(text, 4, 9), torch.from_numpy(found.toarray()))


@proves(words.ppmi)
def ppmi(equation: Any) -> None:
    from scipy.sparse import csr_array

    counts = words.co_occurrence(TOKENS.flatten(), 2, 9)
    counts[3] *= 4  # and not symmetric
    torch.testing.assert_close(equation(counts), torch.from_numpy(ppmi_svd.ppmi(csr_array(counts.numpy())).toarray()))
