"""Recurrent language models, exported to ONNX, in ONNX Runtime."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlref.models.recurrent_layers import Cell
from dlref.models.recurrent_lm import RecurrentLM
from tests.crosschecks.recurrent_models import perplexity, random_network, shakespeare
from tests.crosschecks.rows import crosscheck

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

Agree = Callable[..., None]
LENGTH = 1000  # characters in one call; the state goes through the file's inputs and outputs


def exported(net: RecurrentLM, path: Path) -> Any:
    """A session of ONNX Runtime: tokens [B, T] and the state before them -> logits [B, T, V] and the state after them.

    torch's older exporter, since the newer one unrolls recurrent layers over the time steps of its example.
    """
    tokens, state = torch.zeros(2, 3, dtype=torch.int64), net.recurrent.initial_state(2)
    names = [f"state {number}" for number in range(len(state))]
    axes = {"tokens": {0: "batch", 1: "time"}} | {name: {0: "batch"} for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(), (tokens, state), str(path), dynamo=False, input_names=["tokens", *names], dynamic_axes=axes
        )
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@crosscheck(
    "RNN, GRU and LSTM language models exported to ONNX: perplexity of a real text",
    "onnxruntime, torch",
    "the file that `torch.onnx.export` writes; float32",
)
def test_perplexity(cell: Cell, datasets: Path, tmp_path: Path, agree: Agree) -> None:
    data = shakespeare(datasets)
    net, text = random_network(cell, len(data.vocabulary), torch.float32), data.split("eval").long()
    session = exported(net, tmp_path / "net.onnx")
    first, *states = [each.name for each in session.get_inputs()]
    state = [part.numpy() for part in net.recurrent.initial_state(1)]
    total: Tensor | float = 0.0
    for tokens, targets in zip(text[:-1].split(LENGTH), text[1:].split(LENGTH), strict=True):
        given = dict(zip([first, *states], [tokens[None].numpy(), *state], strict=True))
        logits, *state = session.run(None, given)
        total += torch.nn.functional.cross_entropy(torch.from_numpy(logits[0]).double(), targets, reduction="sum")
    agree(perplexity(net, data), (total / (len(text) - 1)).exp(), rtol=1e-6)
