"""Word vectors from co-occurrence counts by positive pointwise mutual information (PPMI) and singular value decomposition."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dlref.errors import ConfigError, DataError
from dlref.interfaces import CountTable, TokenBatch, declares
from dlref.metrics import Mean, Totals
from dlref.objectives import Objective, text_chunks


class PPMISVD(Objective[TokenBatch]):
    """Fits CountVectors: U Σ^p of the truncated SVD U Σ Vᵀ of the text's PPMI matrix, where p is `eigenvalue_power`.

    Levy & Goldberg 2014, *Neural word embedding as implicit matrix factorization*; the exponent is from Levy et al. 2015,
    *Improving distributional similarity with lessons learned from word embeddings*, section 3.3. Words co-occur up to a
    distance of `window` words. Evaluation only reports the proportion of `<unk>`, word 0. Raises ConfigError for a network
    without a table of counts, and for as many dimensions as words.
    """

    net: Any  # CountVectors
    closed_form = True

    def __init__(self, net: nn.Module, window: int = 5, eigenvalue_power: float = 0.5) -> None:
        super().__init__(net)
        if not declares(net, CountTable):
            raise ConfigError(f"PPMI-SVD fits CountVectors, not {type(net).__name__}; choose model=ppmi_svd")
        if window < 1:
            raise ConfigError(f"objective.window is {window}; it takes 1 or more")
        table = net.table
        if table.shape[1] >= len(table):
            raise ConfigError(
                f"network.width is {table.shape[1]}, and the text has {len(table)} different words; choose one below that"
            )
        self.window, self.eigenvalue_power = window, eigenvalue_power

    def fit(self, batches: Iterable[Any]) -> None:
        from scipy.sparse.linalg import svds

        table = self.net.table
        matrix = ppmi(co_occurrence(text_chunks(batches), self.window, len(table)))
        if not matrix.count_nonzero():
            raise DataError(
                "no two words of the training text occur together more often than independent words would, so its PPMI "
                "matrix is 0; bring more text, or lower data.min_freq"
            )
        left, values, _ = svds(matrix, k=table.shape[1], rng=np.random.default_rng(0))
        descending = values.argsort()[::-1]
        table.copy_(torch.from_numpy((left * values**self.eigenvalue_power)[:, descending].copy()))

    def forward(self, batch: TokenBatch) -> Totals:
        return {"unknown": Mean((batch.tokens == 0).sum(), batch.tokens.numel())}


def co_occurrence(parts: Iterable[Tensor], window: int, vocab_size: int) -> Any:  # [N] each -> sparse [V, V] float64
    """How often word j occurs at most `window` words before or after word i.

    The parts are consecutive; words also co-occur across their borders.
    """
    from scipy.sparse import coo_array, csr_array

    counts, previous = csr_array((vocab_size, vocab_size)), np.empty(0, np.int64)
    for part in parts:
        words = np.concatenate([previous, part.cpu().numpy()])
        earlier, later = [], []
        for distance in range(1, window + 1):
            start = max(len(previous) - distance, 0)  # a pair counts in the part of its later word
            earlier.append(words[start:-distance])
            later.append(words[start + distance :])
        pairs = np.concatenate(earlier), np.concatenate(later)
        counts = counts + coo_array((np.ones(len(pairs[0])), pairs), shape=counts.shape).tocsr()
        previous = words[-window:]
    return counts + counts.T


def ppmi(counts: Any) -> Any:  # sparse [V, V] -> sparse [V, V]
    """max(0, log2 (C_ij N / (Σ_j C_ij Σ_i C_ij))) of the counts C with sum N that are not 0."""
    row_sums, column_sums = counts.sum(1), counts.sum(0)
    matrix = counts.tocoo()
    rows, columns = matrix.coords
    matrix.data = np.log2(matrix.data * counts.sum() / (row_sums[rows] * column_sums[columns])).clip(min=0)
    return matrix.tocsr()
