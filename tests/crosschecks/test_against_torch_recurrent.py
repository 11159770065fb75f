"""Recurrent language models, and the encoder of seq2seq, against plain modules of torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlref.interfaces import Shard
from dlref.models.recurrent_layers import Cell
from dlref.models.recurrent_lm import RecurrentLM
from dlref.models.seq2seq import Encoder
from dlref.objectives.language_modelling import LanguageModelling
from tests.crosschecks.recurrent_models import HIDDEN, LAYERS, WIDTH, perplexity, random_network, shakespeare
from tests.crosschecks.rows import crosscheck

Agree = Callable[..., None]
KINDS: dict[str, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
CELLS = pytest.mark.parametrize("cell", list(KINDS))


class Plain(nn.Module):
    """An embedding, torch's layers above each other, and an affine layer, with the weights of dlref's network."""

    def __init__(self, net: RecurrentLM, cell: Cell) -> None:
        super().__init__()
        vocab_size = net.embed.num_embeddings
        self.embed, self.out = nn.Embedding(vocab_size, WIDTH), nn.Linear(HIDDEN, vocab_size)
        self.recurrent = KINDS[cell](WIDTH, HIDDEN, num_layers=LAYERS, batch_first=True)
        self.double().load_state_dict(self.weights(net))

    def weights(self, net: RecurrentLM) -> dict[str, Tensor]:
        """Those of dlref by the names of this module."""
        found = {"embed.weight": net.embed.weight, "out.weight": net.out.weight, "out.bias": net.out.bias}
        for number, layer in enumerate(net.recurrent.layers):
            for name, parameter in layer.named_parameters():
                found[f"recurrent.{name.removesuffix('0')}{number}"] = parameter
        return found

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        hidden, state = self.recurrent(self.embed(tokens), state)
        return self.out(hidden), state


@CELLS
@crosscheck(
    "RNN, GRU and LSTM language models: perplexity of a real text",
    "torch",
    "weights to `nn.Embedding`, `nn.RNN`, `nn.GRU` or `nn.LSTM` and `nn.Linear`, which read it in one call",
)
def test_perplexity(cell: Cell, datasets: Path, agree: Agree) -> None:
    data = shakespeare(datasets)
    net, text = random_network(cell, len(data.vocabulary), torch.float64), data.split("eval").long()
    with torch.no_grad():
        logits = Plain(net, cell)(text[None, :-1])[0][0]
    agree(perplexity(net, data), nn.functional.cross_entropy(logits, text[1:]).exp(), rtol=1e-12)


@CELLS
@crosscheck(
    "RNN, GRU and LSTM language models: truncated backpropagation through time, ten updates",
    "torch",
    "the same; SGD with clipped gradients, the state carried from batch to batch",
)
def test_training(cell: Cell, datasets: Path, agree: Agree) -> None:
    data = shakespeare(datasets)
    net = random_network(cell, len(data.vocabulary), torch.float64)
    plain, objective, state = Plain(net, cell), LanguageModelling(net), None
    optimizers = [torch.optim.SGD(each.parameters(), 0.5) for each in (net, plain)]
    for _, batch in zip(range(10), data.train_batches(net, Shard(), 0), strict=False):
        loss = objective(batch)["loss"]
        logits, state = plain(batch.tokens, state)
        state = tuple(part.detach() for part in state) if cell == "lstm" else state.detach()
        theirs = nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        ours = loss.total / loss.count
        agree(ours, theirs, rtol=1e-12)
        for each, optimizer, module in zip((ours, theirs), optimizers, (net, plain), strict=True):
            optimizer.zero_grad()
            each.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
    for name, weight in plain.weights(net).items():
        agree(weight, plain.get_parameter(name), rtol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
@CELLS
@crosscheck(
    "encoder of seq2seq, one way and bidirectional, of sources of different lengths: outputs, last states, gradients",
    "torch",
    "weights to `nn.RNN`, `nn.GRU` or `nn.LSTM`, which read a `PackedSequence`",
)
def test_encoder(cell: Cell, bidirectional: bool, agree: Agree) -> None:
    encoder = Encoder(cell, [WIDTH] + [HIDDEN] * LAYERS, [0.0] * LAYERS, False, bidirectional, reversed=False).double()
    ways = ["", "_reverse"][: 1 + bidirectional]
    theirs = KINDS[cell](WIDTH, HIDDEN // len(ways), LAYERS, batch_first=True, bidirectional=bidirectional).double()
    weights = {
        f"{name.removesuffix('0')}{number}{way}": parameter
        for number, layers in enumerate(encoder.layers)
        for way, layer in zip(ways, layers, strict=True)
        for name, parameter in layer.layers[0].named_parameters()
    }
    lengths = torch.tensor([3, 8, 1, 5])
    visible = torch.arange(8) < lengths[:, None]
    x = torch.randn(4, 8, WIDTH, dtype=torch.float64, requires_grad=True)
    outputs, ends = encoder(x, visible)
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    found, last = torch.func.functional_call(theirs, weights, (packed,))
    expected = nn.utils.rnn.pad_packed_sequence(found, batch_first=True)[0]
    last = (last[0] if cell == "lstm" else last).unflatten(0, (LAYERS, len(ways)))
    agree(outputs[visible], expected[visible], rtol=1e-12)
    for end, other in zip(ends, last, strict=True):
        agree(end, torch.cat([*other], 1), rtol=1e-12)
    wanted = [x, *encoder.parameters()]
    ours = torch.autograd.grad(outputs[visible].square().sum() + sum(end.sum() for end in ends), wanted)
    for mine, other in zip(
        ours, torch.autograd.grad(expected[visible].square().sum() + last.sum(), wanted), strict=True
    ):
        agree(mine, other, rtol=1e-12)
