"""Samples are reproducible text, folded for TensorBoard."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dlref.errors import ConfigError
from dlref.reports.samples import WIDTH, Samples
from tests.decoding.bigrams import model_and_data


def test_the_samples_are_the_same_each_time_and_leave_the_global_generator_alone() -> None:
    net, data = model_and_data("words")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = Samples(prompts=["the cat", "the dog"])(net, data, "eval")
    assert torch.equal(torch.rand(3), expected)
    assert Samples(prompts=["the cat", "the dog"])(net, data, "test") == first
    assert Samples(prompts=["the cat", "the dog"], seed=1)(net, data, "eval") != first
    assert first["sample"].startswith("    the cat ")
    assert "\n\n    the dog " in first["sample"]
    assert Samples.while_training


def test_a_long_line_is_wrapped_between_words() -> None:
    net, data = model_and_data("words")
    with torch.no_grad():
        net.table[:, 1] = -99  # no end of a line
    sample = Samples(length=200)(net, data, "eval")["sample"]
    lines = sample.splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= WIDTH + 4
    assert all(line.startswith("    ") for line in lines)
    assert len(sample.split()) == 200


def test_temperature_top_k_and_top_p_reach_the_sampling() -> None:
    net, data = model_and_data("words")
    greedy = Samples(temperature=0)(net, data, "eval")
    assert Samples(top_k=1, seed=5)(net, data, "eval") == greedy
    assert Samples(top_p=1e-9, seed=5)(net, data, "eval") == greedy
    assert Samples()(net, data, "eval") != greedy
    with pytest.raises(ConfigError, match="top_k is 0"):
        Samples(top_k=0)


def test_a_network_that_does_not_decode_or_data_that_are_no_text_have_nothing_to_report() -> None:
    net, data = model_and_data("words")
    assert Samples()(nn.Linear(1, 1), data, "eval") == {}
    assert Samples()(net, SimpleNamespace(vocabulary=data.vocabulary), "eval") == {}
    assert Samples()(net, SimpleNamespace(), "eval") == {}
