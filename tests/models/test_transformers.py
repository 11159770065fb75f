"""Transformers: defaults, refused settings, initialization, number of parameters, and memory of training."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlref.cli.main import main
from dlref.errors import ConfigError, ResourceError
from dlref.models import blockwise_attention
from dlref.models.transformer import Transformer
from dlref.models.transformer_lm import TransformerLM
from dlref.training.memory import require_memory
from tests.conftest import SMALL, assert_one_sentence
from tests.decoding.dictionary import LINES, SOURCE
from tests.faults.processes import refusal

Train = Callable[..., tuple[int, str]]
LM: Any = functools.partial(TransformerLM, vocab_size=7, context=5, width=8, layers=3, heads=2)
MT: Any = functools.partial(Transformer, source_vocab_size=9, target_vocab_size=7, width=8, layers=3, heads=2)


def sources(rows: int = 2, length: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randint(9, (rows, length)), torch.ones(rows, length, dtype=torch.bool)


@pytest.mark.parametrize("network", [LM, MT], ids=["language model", "translator"])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"heads": 3}, "network.width 8 does not split into 3 heads; choose a multiple of 3"),
        ({"heads": 8, "positions": "rotary"}, "rotary positions rotate pairs of dimensions, and a head has 1;"),
        ({"width": 9, "heads": 3, "positions": "rotary"}, "and a head has 3; choose network.heads for an even number"),
        ({"width": 9, "heads": 3, "positions": "sinusoidal"}, "network.width is 9, choose an even one"),
        ({"width": 0}, "network.width 0, .* take 1 or more"),
        ({"heads": 0}, "heads 0, .* take 1 or more"),
        ({"layers": 0}, "layers 0, .* take 1 or more"),
        ({"hidden": 0}, "hidden 0 .* take 1 or more"),
        ({"context": 0}, "context 0 take 1 or more"),
        ({"context": -1}, "context -1 take 1 or more"),
        ({"dropout": 1.0}, "network.* 1.0"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(network: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        network(**settings)


def test_a_translator_needs_a_decoder_and_for_shared_embeddings_one_vocabulary() -> None:
    with pytest.raises(ConfigError, match=r"network\.decoder_layers is 0; it takes 1 or more"):
        MT(decoder_layers=0)
    with pytest.raises(ConfigError, match=r"network\.shared_embeddings is for one vocabulary, not two of 9 and 7"):
        MT(shared_embeddings=True)
    net = MT(shared_embeddings=True, source_vocab_size=7)
    assert net.embed_source is net.embed


@pytest.mark.faults
@pytest.mark.parametrize("model", ["transformer", "transformer_lm"])
def test_fault_22_heads_that_do_not_divide_the_width_are_refused_in_one_sentence(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", *SMALL[model], "device=cpu", "network.heads=3"]
    assert_one_sentence(line, 2, "network.width 8 does not split into 3 heads", capsys)


@pytest.mark.faults
@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_fault_19_more_tokens_than_the_context_are_refused_with_both_numbers(positions: str) -> None:
    said = "6 tokens are more than the network's context of 5; shorten the line or the text"
    net = LM(positions=positions)
    assert net(torch.zeros(2, 5, dtype=torch.int64))[0].shape == (2, 5, 7)
    with pytest.raises(ConfigError, match=said):
        net(torch.zeros(2, 6, dtype=torch.int64))
    net = MT(positions=positions, context=5)
    for source, target in ((5, 6), (6, 5)):
        with pytest.raises(ConfigError, match=said):
            net(*sources(2, source), torch.zeros(2, target, dtype=torch.int64))
    state = net.prefill(*sources(2, 5))
    for _ in range(5):
        _, state = net.step(state, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ConfigError, match=said):
        net.step(state, torch.zeros(2, dtype=torch.int64))


@pytest.mark.faults
@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_fault_19_more_context_than_was_trained_is_refused_in_evaluation(
    positions: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*SMALL["transformer_lm"], f"network.positions={positions}", "trainer.max_steps=2"]
    assert train(*line, f"run_dir={tmp_path / 'run'}")[0] == 0
    assert main(["evaluate", str(tmp_path / "run"), "data.seq_len=11"]) == 2
    assert "data.seq_len is 11, and the network was trained to see 10 tokens" in capsys.readouterr().err


@pytest.mark.faults
def test_fault_19_pairs_longer_than_the_context_end_the_run_with_a_sentence(train: Train, tmp_path: Path) -> None:
    code, said = train(*SMALL["transformer"], "network.context=10", f"run_dir={tmp_path / 'run'}")
    assert code == 2
    assert " tokens are more than the network's context of 10; shorten the line or the text (data.max_len" in refusal(
        said
    )


@pytest.mark.faults
def test_fault_16_fewer_pairs_than_batch_size_are_trained_and_too_little_text_is_refused(
    train: Train, tmp_path: Path
) -> None:
    line = ["data.batch_size=50000", "trainer.max_steps=2", "reports=null"]
    assert train(*SMALL["transformer"], *line, f"run_dir={tmp_path / 'pairs'}")[0] == 0
    code, said = train(*SMALL["transformer_lm"], *line, f"run_dir={tmp_path / 'text'}")
    assert code == 3
    assert (
        "segments of 10 and the one that is lost to the random offset, for batches of 50000; lower data.batch_size"
        in refusal(said)
    )


@pytest.mark.faults
def test_fault_16_no_source_is_all_padding() -> None:
    """Even an empty line has an end token to attend to."""
    ids, visible = SOURCE.encode(["", *LINES])
    assert visible.any(1).all()
    assert MT(source_vocab_size=len(SOURCE.vocabulary))(ids, visible, torch.zeros(len(ids), 3).long()).isfinite().all()


def with_random_parameters(net: nn.Module) -> Any:
    for p in net.parameters():
        nn.init.normal_(p)
    return net


def test_the_default_language_model_is_a_modern_one() -> None:
    """ReLU², rotary positions, QK-norm, RMS norm without biases, and tied embeddings."""
    net = with_random_parameters(LM())
    assert net.out.weight is net.embed.tokens.weight
    assert [name for name, _ in net.named_parameters() if name.endswith("bias")] == ["out.bias"]
    explicit = LM(hidden=32, positions="rotary", norm="rms", prenorm=True, activation="relu2", qk_norm=True, zero_init=True,
                  tied=True, bias=False, dropout=0.0)  # fmt: skip
    explicit.load_state_dict(net.state_dict())
    tokens = torch.randint(7, (2, 5))
    assert torch.equal(explicit(tokens)[0], net(tokens)[0])


def test_the_default_translator_is_that_of_the_paper_except_for_pre_norm() -> None:
    net = with_random_parameters(MT())
    assert len(net.encoder) == len(net.decoder) == 3
    assert net.context == 512
    explicit = MT(decoder_layers=3, hidden=32, context=512, positions="sinusoidal", norm="layer", prenorm=True,
                  activation="relu", qk_norm=False, zero_init=False, tied=False, shared_embeddings=False, bias=True,
                  dropout=0.0)  # fmt: skip
    explicit.load_state_dict(net.state_dict())
    batch = *sources(), torch.randint(7, (2, 3))
    assert torch.equal(explicit(*batch), net(*batch))
    assert [len(part) for part in (MT(decoder_layers=1).encoder, MT(decoder_layers=1).decoder)] == [3, 1]


@pytest.mark.parametrize("width", [16, 128])
def test_before_training_the_loss_is_about_that_of_a_uniform_guess(width: int) -> None:
    """Exactly so with zero_init; otherwise logits are about standard normal."""
    torch.manual_seed(0)
    tokens, guess = torch.randint(500, (16, 33)), math.log(500)
    batch = torch.randint(500, (16, 20)), torch.ones(16, 20, dtype=torch.bool), tokens[:, :-1]
    sizes = {"width": width, "layers": 2, "heads": 4}

    def loss(logits: Tensor) -> float:
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()

    def language_model(zero_init: bool) -> TransformerLM:
        return TransformerLM(500, 32, **sizes, tied=False, zero_init=zero_init)

    def translator(zero_init: bool) -> Transformer:
        return Transformer(500, 500, **sizes, zero_init=zero_init)

    for logits in (language_model(True)(batch[2])[0], translator(True)(*batch)):
        assert loss(logits) == pytest.approx(guess, rel=1e-6)
    for logits in (language_model(False)(batch[2])[0], translator(False)(*batch)):
        assert loss(logits) == pytest.approx(guess + 0.5, abs=0.2)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_networks_have_the_expected_number_of_parameters() -> None:
    words, biases = 7 * 8, 7
    # Four projections, two layers of the feed-forward part, scales of two norms and of QK-norm.
    block = 4 * 8 * 8 + 2 * 8 * 32 + 2 * 8 + 2 * 4
    assert count(LM()) == words + biases + 3 * block + 8
    assert count(LM(tied=False, positions="learned", qk_norm=False)) == count(LM()) + words + 5 * 8 - 3 * 2 * 4
    assert count(LM(hidden=5, activation="swiglu")) == words + biases + 3 * (block - 2 * 8 * 32 + 3 * 8 * 5) + 8
    attention, forward, norm = 4 * (8 * 8 + 8), 8 * 32 + 32 + 32 * 8 + 8, 2 * 8
    encoder, decoder = attention + forward + 2 * norm, 2 * attention + forward + 3 * norm
    assert count(MT(decoder_layers=2)) == 9 * 8 + 7 * 8 + 3 * encoder + 2 * decoder + 2 * norm + 8 * 7 + 7
    assert count(MT(prenorm=False)) == count(MT()) - 2 * norm
    assert count(MT(source_vocab_size=7, shared_embeddings=True, tied=True)) == count(MT()) - 9 * 8 - 7 * 8


@pytest.mark.faults
@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
@pytest.mark.parametrize("network", [LM, MT], ids=["language model", "translator"])
def test_fault_20_the_memory_of_a_network_is_known_before_it_is_built(network: Any, positions: str) -> None:
    cpu = torch.device("cpu")
    require_memory(lambda: network(positions=positions), cpu)
    with pytest.raises(ResourceError, match="training this network takes "):
        require_memory(lambda: network(positions=positions, width=2**20), cpu)


def bytes_saved_for_backward(net: nn.Module, *inputs: Tensor) -> int:
    """Without parameters and buffers."""
    own = {part.untyped_storage().data_ptr() for part in (*net.parameters(), *net.buffers())}
    found: dict[int, int] = {}

    def pack(part: Tensor) -> Tensor:
        storage = part.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return part

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda part: part):
        logits = net(*inputs)  # keeps all saved tensors alive, so that no address is used twice
    assert (logits[0] if isinstance(logits, tuple) else logits).requires_grad
    return sum(found.values())


@pytest.mark.parametrize("causal", [True, False], ids=["language model", "translator"])
def test_memory_of_training_is_linear_in_the_context(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No T × T attention weights are saved, except for short texts."""
    monkeypatch.setattr(blockwise_attention, "BLOCK", 32)
    net, bytes_of = (LM(context=256) if causal else MT(context=256)), {}
    for context in (64, 128, 256):
        tokens = torch.zeros(3, context, dtype=torch.int64)
        inputs = (tokens,) if causal else (tokens, torch.ones_like(tokens, dtype=torch.bool), tokens)
        bytes_of[context] = bytes_saved_for_backward(net, *inputs)
    assert 1.9 < bytes_of[128] / bytes_of[64] <= 2.1
    assert 1.9 < bytes_of[256] / bytes_of[128] <= 2.1
