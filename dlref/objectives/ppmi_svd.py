"""Word vectors from counts: co-occurrence, positive pointwise mutual information, singular values (Levy & Goldberg 2014)."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dlref.errors import ConfigError, DataError
from dlref.interfaces import CountTable, declares
from dlref.metrics import Mean, Totals
from dlref.objectives import Objective, text_parts


class Counting(Objective):
    """Fits the vectors of CountVectors to a text: U Σ^power of the truncated decomposition U Σ Vᵀ of its PPMI matrix.

    Counted are the words up to `window` places away. In evaluation only the share of unknown words is counted: word 0. Raises
    ConfigError for a network with nothing to fit, and for as many dimensions as words.
    """

    net: Any  # CountVectors

    def __init__(self, net: nn.Module, window: int = 5, power: float = 0.5) -> None:
        super().__init__(net)
        if not declares(net, CountTable):
            raise ConfigError(f"counting fits CountVectors, not {type(net).__name__}; choose model=ppmi_svd")
        if window < 1:
            raise ConfigError(f"objective.window is {window}; it takes 1 or more")
        table = net.table
        if table.shape[1] >= len(table):
            raise ConfigError(
                f"network.width is {table.shape[1]}, and the text has {len(table)} different words; choose one below that"
            )
        self.window, self.power = window, power

    def fit(self, batches: Iterable[Any]) -> None:
        from scipy.sparse.linalg import svds

        table = self.net.table
        matrix = ppmi(co_occurrence(text_parts(batches), self.window, len(table)))
        if not matrix.count_nonzero():
            raise DataError(
                "no two words of the training text stand together more often than by chance, so there is nothing to make "
                "vectors of; bring more text, or lower data.minimum"
            )
        left, values, _ = svds(matrix, k=table.shape[1], rng=np.random.default_rng(0))
        largest = values.argsort()[::-1]
        table.copy_(torch.from_numpy((left * values**self.power)[:, largest].copy()))

    def forward(self, batch: Any) -> Totals:
        return {"unknown": Mean((batch.tokens == 0).sum(), batch.tokens.numel())}


def co_occurrence(parts: Iterable[Tensor], window: int, vocabulary: int) -> Any:  # [N] each
    """How often word j stands at most `window` words before or after word i, as a sparse matrix [V, V] in float64.

    The parts of the text follow each other; each is counted with the last words of those before it.
    """
    from scipy.sparse import coo_array, csr_array

    counts, before = csr_array((vocabulary, vocabulary)), np.empty(0, np.int64)
    for part in parts:
        words = np.concatenate([before, part.cpu().numpy()])
        earlier, later = [], []
        for distance in range(1, window + 1):
            start = max(len(before) - distance, 0)  # a pair is counted where its later word is new
            earlier.append(words[start:-distance])
            later.append(words[start + distance :])
        pairs = np.concatenate(earlier), np.concatenate(later)
        counts = counts + coo_array((np.ones(len(pairs[0])), pairs), shape=counts.shape).tocsr()
        before = words[-window:]
    return counts + counts.T


def ppmi(counts: Any) -> Any:
    """max(0, log2 (C_ij N / (Σ_j C_ij Σ_i C_ij))) of a sparse matrix [V, V], where anything was counted."""
    sums = counts.sum(1)
    found = counts.tocoo()
    rows, columns = found.coords
    found.data = np.log2(found.data * counts.sum() / (sums[rows] * counts.sum(0)[columns])).clip(min=0)
    return found.tocsr()
