"""Small recurrent language models with random weights, and a real text, for the cross-checks of these."""

import contextlib
from pathlib import Path

import torch

from dlref.data.text.corpora import TinyShakespeare
from dlref.interfaces import Shard
from dlref.models.recurrent_layers import Cell
from dlref.models.recurrent_lm import RecurrentLM
from dlref.objectives.language_modelling import LanguageModelling
from dlref.training.evaluation import evaluate

WIDTH, HIDDEN, LAYERS = 12, 20, 2


def shakespeare(root: Path) -> TinyShakespeare:
    """The text, whose split `eval` is one column of 50,000 characters."""
    return TinyShakespeare(root, batch_size=4, seq_len=30)


def random_network(cell: Cell, vocab_size: int, dtype: torch.dtype) -> RecurrentLM:
    """Recurrent weights are small enough that rounding errors do not grow from step to step, as they would in a chaotic one."""
    net = RecurrentLM(vocab_size, WIDTH, LAYERS, HIDDEN, cell, tied=False)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            scale = 0.2 if "weight_hh" in name else 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    return net.to(dtype)


def perplexity(net: RecurrentLM, data: TinyShakespeare) -> float:
    """That of `dlref evaluate`."""
    figures = evaluate(LanguageModelling(net), data, "eval", Shard(), contextlib.nullcontext, torch.device("cpu"))
    return figures["perplexity"]
