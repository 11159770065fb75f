"""The losses of word2vec, pair by pair, and co-occurrence counts. V words, D dimensions of a vector."""

import torch
from torch import Tensor

from dlref.equations import tensor, total


def dot(a: Tensor, b: Tensor) -> Tensor:  # [D], [D] -> scalar
    return total(x * y for x, y in zip(a, b, strict=True))


def negative_sampling(vector: Tensor, target: Tensor, noise: Tensor, noise_weight: float) -> Tensor:
    """-log σ(u · v) - λ Σ_n log σ(-u_n · v) for vectors v and u [D] and noise [S, D], with λ the `noise_weight`.

    Mikolov et al. 2013, *Distributed representations of words and phrases*, equation 4, where k noise words are sampled
    for each pair; if many pairs have S noise words in common, λ = k / S.
    """
    nats = torch.log(1 + torch.exp(-dot(target, vector)))
    for other in noise:
        nats = nats + noise_weight * torch.log(1 + torch.exp(dot(other, vector)))
    return nats


def skip_gram(
    inputs: Tensor, outputs: Tensor, pairs: list[tuple[int, int]], noise: Tensor, noise_weight: float
) -> Tensor:
    """Summed over pairs of a word and a context word: the word predicts the context word against noise [P, S]."""
    return total(
        negative_sampling(inputs[word], outputs[context], outputs[others], noise_weight)
        for (word, context), others in zip(pairs, noise, strict=True)
    )


def cbow(
    inputs: Tensor, outputs: Tensor, windows: list[tuple[int, list[int]]], noise: Tensor, noise_weight: float
) -> Tensor:
    """Summed over words: the mean of the context's vectors predicts the word against noise [P, S]."""
    nats = []
    for (word, context), others in zip(windows, noise, strict=True):
        mean = tensor([total(inputs[c, d] for c in context) / len(context) for d in range(inputs.shape[1])])
        nats.append(negative_sampling(mean, outputs[word], outputs[others], noise_weight))
    return total(nats)


def co_occurrence(words: Tensor, window: int, vocabulary: int) -> Tensor:  # [T] -> [V, V]
    """How often word j occurs at most `window` words before or after word i."""
    counts = torch.zeros(vocabulary, vocabulary, dtype=torch.float64)
    for position, word in enumerate(words):
        for neighbor in range(max(position - window, 0), min(position + window + 1, len(words))):
            if neighbor != position:
                counts[word, words[neighbor]] += 1
    return counts


def ppmi(counts: Tensor) -> Tensor:  # [V, V] -> [V, V]
    """max(0, log2 (C_ij N / (Σ_j C_ij Σ_i C_ij))) with N = Σ C, 0 where the count is 0 (Church & Hanks 1990)."""
    size = len(counts)
    everything = total(counts.flatten())
    rows = [total(row) for row in counts]
    columns = [total(column) for column in counts.T]
    values = torch.zeros_like(counts)
    for i in range(size):
        for j in range(size):
            if counts[i, j] > 0:
                values[i, j] = torch.log2(counts[i, j] * everything / (rows[i] * columns[j])).clamp(min=0)
    return values
