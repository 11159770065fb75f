"""Dynamic evaluation equals training with torch's SGD on the text while predicting it."""

import math

import pytest
import torch
import torch.nn.functional as F

from dlref.data.text.markov_chain import MarkovChain
from dlref.models.mlp import MLP
from dlref.models.recurrent_lm import RecurrentLM
from dlref.reports.dynamic_evaluation import DynamicEvaluation


@pytest.fixture
def data() -> MarkovChain:
    return MarkovChain(words=5, tokens=400)


@pytest.fixture
def net(data: MarkovChain) -> RecurrentLM:
    torch.manual_seed(0)
    return RecurrentLM(len(data.vocabulary), 6, dropout=0.5).double().eval()


def test_each_segment_is_predicted_before_it_is_trained_on(net: RecurrentLM, data: MarkovChain) -> None:
    start = [p.detach().clone() for p in net.parameters()]
    found = DynamicEvaluation(lr=0.3, decay=0.1, seq_len=15, clip_norm=0.2)(net, data, "test")["dynamic_perplexity"]
    assert all(torch.equal(*pair) for pair in zip(net.parameters(), start, strict=True))
    text, nats, state = data.split("test"), 0.0, None
    sgd = torch.optim.SGD(net.parameters(), lr=0.3)
    for position in range(0, len(text) - 1, 15):
        words = text[position : position + 16]
        logits, state = net(words[None, :-1], state)
        loss = F.cross_entropy(logits[0], words[1:], reduction="sum")
        nats, state = nats + loss.item(), tuple(part.detach() for part in state)
        sgd.zero_grad()
        (loss / 15).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.2)
        with torch.no_grad():  # decay towards the trained weights, then a gradient step
            for p, first in zip(net.parameters(), start, strict=True):
                p.copy_(0.9 * p + 0.1 * first)
        sgd.step()
    assert found == pytest.approx(math.exp(nats / (len(text) - 1)), rel=1e-5)


def test_without_a_rate_it_is_the_usual_perplexity(net: RecurrentLM, data: MarkovChain) -> None:
    text = data.split("eval")
    nll = F.cross_entropy(net(text[None, :-1])[0][0], text[1:]).item()
    found = DynamicEvaluation(lr=0.0, decay=0.0)(net, data, "eval")
    assert found["dynamic_perplexity"] == pytest.approx(math.exp(nll), rel=1e-9)


def test_sparse_gradients_make_no_difference(data: MarkovChain) -> None:
    sparse = RecurrentLM(len(data.vocabulary), 6, dropout=0.5, tied=False, sparse=True).double().eval()
    dense = RecurrentLM(len(data.vocabulary), 6, dropout=0.5, tied=False).double().eval()
    dense.load_state_dict(sparse.state_dict())
    report = DynamicEvaluation(lr=0.3)
    assert report(sparse, data, "eval") == report(dense, data, "eval")
    assert sparse.embed.sparse


def test_it_is_for_language_models(data: MarkovChain) -> None:
    assert DynamicEvaluation()(MLP(2, 3, [4]), data, "test") == {}
