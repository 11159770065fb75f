"""Transformer language models and decoding against Hugging Face's transformers: GPT-2, Llama, its samplers, its beam search.

B batch, T time, D width, V vocabulary. Models are made from a config with random weights; nothing is downloaded.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from dlref.decoding.beam_search import beam_search
from dlref.decoding.sampling import generate, sampling_probabilities
from dlref.interfaces import TokenBatch
from dlref.models.transformer_layers import TokenEmbedding
from dlref.models.transformer_lm import TransformerLM
from dlref.objectives.language_modelling import LanguageModelling
from tests.crosschecks.rows import crosscheck

transformers = pytest.importorskip("transformers")
marian = pytest.importorskip("transformers.models.marian.modeling_marian")

Agree = Callable[..., None]
Weights = dict[str, Tensor]
VOCABULARY, CONTEXT, WIDTH, LAYERS, HEADS, HIDDEN = 23, 64, 16, 3, 4, 40
STOP = 0
SIZES = {"width": WIDTH, "layers": LAYERS, "heads": HEADS, "hidden": HIDDEN, "qk_norm": False, "zero_init": False}
# Llama computes norms and angles in float32, whatever its weights are: some 1e-7 of each value, in each of three layers.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}
FLOAT64 = {
    "rtol": 1e-12,
    "atol": 1e-12,
}  # gradients at biases of keys are 0 but for rounding: a softmax does not see them


def random_weights(net: TransformerLM) -> TransformerLM:
    """Every weight that the library has too is random, scales and biases of norms among them; its logits have no bias."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
        net.out.bias.zero_()
    return net


def gpt2(
    tied: bool, dtype: torch.dtype = torch.float64
) -> tuple[TransformerLM, Any, Callable[[TransformerLM], Weights]]:
    """A network with the parts of GPT-2, the library's, and the map from the weights of the one to the other's."""
    settings: Any = {"positions": "learned", "norm": "layer", "activation": "gelu_tanh", "bias": True, "tied": tied}
    net = random_weights(TransformerLM(VOCABULARY, CONTEXT, **SIZES, **settings))
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=HIDDEN,
        activation_function="gelu_new", tie_word_embeddings=False, bos_token_id=STOP, eos_token_id=STOP,
    )  # fmt: skip
    return net.to(dtype), transformers.GPT2LMHeadModel(config).to(dtype).eval(), gpt2_weights


def gpt2_weights(net: TransformerLM) -> Weights:
    """dlref multiplies token vectors by √D; the library keeps matrices transposed, those of queries, keys, values together."""
    found = {
        "transformer.wte.weight": net.embed.tokens.weight * WIDTH**0.5,
        "transformer.wpe.weight": net.embed.learned.weight,
        "transformer.ln_f.weight": net.norm.weight,
        "transformer.ln_f.bias": net.norm.bias,
        "lm_head.weight": net.out.weight,
    }
    block: Any
    for number, block in enumerate(net.blocks):
        own, part = f"transformer.h.{number}", block.self_attention
        asked = (part.query, part.key, part.value)
        found |= {
            f"{own}.attn.c_attn.weight": torch.cat([layer.weight for layer in asked]).T,
            f"{own}.attn.c_attn.bias": torch.cat([layer.bias for layer in asked]),
        }
        layers = {"attn.c_proj": part.out, "mlp.c_fc": block.feed_forward.up, "mlp.c_proj": block.feed_forward.down}
        layers |= {f"ln_{place}": norm for place, norm in enumerate(block.norms, 1)}
        for name, layer in layers.items():
            found |= {f"{own}.{name}.weight": layer.weight.t(), f"{own}.{name}.bias": layer.bias}
    return found


def llama(
    tied: bool, dtype: torch.dtype = torch.float32
) -> tuple[TransformerLM, Any, Callable[[TransformerLM], Weights]]:
    """The same with the parts of Llama, in float32."""
    settings: Any = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "bias": False, "tied": tied}
    net = random_weights(TransformerLM(VOCABULARY, CONTEXT, **SIZES, **settings))
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, hidden_size=WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, intermediate_size=HIDDEN, tie_word_embeddings=False, bos_token_id=STOP,
        eos_token_id=STOP, rms_norm_eps=torch.finfo(dtype).eps,
    )  # fmt: skip
    return net.to(dtype), transformers.LlamaForCausalLM(config).to(dtype).eval(), llama_weights


def llama_weights(net: TransformerLM) -> Weights:
    """dlref multiplies token vectors by √D, and has gates and units in one matrix; both turn halves of a head."""
    found = {
        "model.embed_tokens.weight": net.embed.tokens.weight * WIDTH**0.5,
        "model.norm.weight": net.norm.weight,
        "lm_head.weight": net.out.weight,
    }
    block: Any
    for number, block in enumerate(net.blocks):
        part, (gate, up) = block.self_attention, block.feed_forward.up.weight.chunk(2)
        weights = {
            "self_attn.q_proj": part.query.weight,
            "self_attn.k_proj": part.key.weight,
            "self_attn.v_proj": part.value.weight,
            "self_attn.o_proj": part.out.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.feed_forward.down.weight,
            "input_layernorm": block.norms[0].weight,
            "post_attention_layernorm": block.norms[1].weight,
        }
        found |= {f"model.layers.{number}.{name}.weight": weight for name, weight in weights.items()}
    return found


def text(rows: int, tokens: int) -> Tensor:  # [B, T]
    """Random tokens, none of which is the end."""
    return torch.randint(STOP + 1, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(2))


def same_logits_and_gradients(made: Any, agree: Agree, **allowed: float) -> None:
    """The gradients are those at dlref's own weights: on the library's side they come back through the map of the weights."""
    (net, theirs, weights), tokens = made, text(3, CONTEXT)
    logits = torch.func.functional_call(theirs, weights(net), kwargs={"input_ids": tokens, "use_cache": False}).logits
    agree(net.eval()(tokens)[0], logits, **allowed)
    wanted = {name: parameter for name, parameter in net.named_parameters() if name != "out.bias"}
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    loss = LanguageModelling(net)(TokenBatch(tokens[:, :-1], tokens[:, 1:], True))["loss"]
    for ours, other in zip(
        torch.autograd.grad(loss.total / loss.count, list(wanted.values())),
        torch.autograd.grad(expected, list(wanted.values())),
        strict=True,
    ):
        agree(ours, other, **allowed)


def same_loss(made: Any, agree: Agree) -> None:
    """The library's own, which it computes in float32, of the tokens as labels, which it shifts itself."""
    (net, theirs, weights), tokens = made, text(3, CONTEXT)
    theirs.load_state_dict(weights(net))
    objective, batch = LanguageModelling(net), TokenBatch(tokens[:, :-1], tokens[:, 1:], True)
    for mode in (objective.train(), objective.eval()):  # which compute it in two ways
        loss = mode(batch)["loss"]
        agree(loss.total / loss.count, theirs(tokens, labels=tokens).loss, rtol=1e-6)


@torch.no_grad()
def same_decoding(made: Any, agree: Agree, **allowed: float) -> None:
    """Greedy decoding with keys and values that are kept: the tokens, and the logits of each step."""
    (net, theirs, weights), prompt, length = made, text(3, 20), 30
    net.eval()
    theirs.load_state_dict(weights(net))
    state, token, cache = net.prefill(prompt[:, :-1]), prompt[:, -1], transformers.DynamicCache()
    written = torch.stack([*generate(net, state, token, length, temperature=0)], 1)
    logits = theirs(prompt, cache=cache).logits[:, -1]
    for number in range(length):
        ours, state = net.step(state, token)
        agree(ours, logits, **allowed)
        token = logits.argmax(1)
        agree(written[:, number], token)
        logits = theirs(token[:, None], cache=cache).logits[:, -1]
    assert cache.get_seq_length() == 20 + length


@pytest.mark.parametrize("tied", [False, True])
@crosscheck(
    "Transformer LM with learned positions, layer norm and tanh-GELU: logits and gradients",
    "transformers",
    "weights to `GPT2LMHeadModel`, the token embeddings times √D",
)
def test_gpt2(tied: bool, agree: Agree) -> None:
    same_logits_and_gradients(gpt2(tied), agree, **FLOAT64)


@pytest.mark.parametrize("tied", [False, True])
@crosscheck("Transformer LM as GPT-2: loss", "transformers", "the same; the library's loss is float32")
def test_gpt2_loss(tied: bool, agree: Agree) -> None:
    same_loss(gpt2(tied), agree)


@crosscheck(
    "Transformer LM as GPT-2: greedy decoding with kept keys and values", "transformers", "the same; `DynamicCache`"
)
def test_gpt2_decoding(agree: Agree) -> None:
    same_decoding(gpt2(tied=True), agree, **FLOAT64)


@pytest.mark.parametrize("tied", [False, True])
@crosscheck(
    "Transformer LM with rotary positions, RMS norm and SwiGLU: logits and gradients",
    "transformers",
    "weights to `LlamaForCausalLM`, the token embeddings times √D; float32",
)
def test_llama(tied: bool, agree: Agree) -> None:
    same_logits_and_gradients(llama(tied), agree, **FLOAT32)


@pytest.mark.parametrize("tied", [False, True])
@crosscheck("Transformer LM as Llama: loss", "transformers", "the same")
def test_llama_loss(tied: bool, agree: Agree) -> None:
    same_loss(llama(tied), agree)


@crosscheck(
    "Transformer LM as Llama: greedy decoding with kept keys and values", "transformers", "the same; `DynamicCache`"
)
def test_llama_decoding(agree: Agree) -> None:
    same_decoding(llama(tied=True), agree, **FLOAT32)


@pytest.mark.parametrize("width", [16, 6])
@crosscheck(
    "sinusoidal positions",
    "transformers",
    "`MarianSinusoidalPositionalEmbedding`, which has all sines before all cosines, in float32",
)
def test_sinusoidal_positions(width: int, agree: Agree) -> None:
    """Of 700 positions at once, and of some that begin later."""
    embed = TokenEmbedding(VOCABULARY, width, heads=2, context=700, positions="sinusoidal", dropout=0.0).double()
    torch.nn.init.zeros_(embed.tokens.weight)
    sines, cosines = marian.MarianSinusoidalPositionalEmbedding(700, width).create_weight().chunk(2, dim=1)
    theirs = torch.stack([sines, cosines], 2).flatten(1)
    agree(embed(text(1, 700))[0][0], theirs, atol=1e-7)
    agree(embed(text(1, 5), start=600)[0][0], theirs[600:605], atol=1e-7)


def warped(logits: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:  # [B, V] -> [B, V]
    """The library's probabilities."""
    warpers = [transformers.TemperatureLogitsWarper(temperature)]
    if top_k is not None:
        warpers.append(transformers.TopKLogitsWarper(top_k))
    if top_p is not None:
        warpers.append(transformers.TopPLogitsWarper(top_p))
    return transformers.LogitsProcessorList(warpers)(torch.empty(len(logits), 0), logits).softmax(1)


@pytest.mark.parametrize("top_p", [None, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("top_k", [None, 1, 5, 100, 1000])
@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 3.0])
@crosscheck(
    "sampling by temperature, top-k and top-p: the distribution", "transformers", "the library's three `LogitsWarper`s"
)
def test_sampling(temperature: float, top_k: int | None, top_p: float | None, agree: Agree) -> None:
    logits = 3 * torch.randn(7, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    agree(
        sampling_probabilities(logits, temperature, top_k, top_p), warped(logits, temperature, top_k, top_p), atol=1e-12
    )


class Bigrams:
    """A decoder whose logits depend on the last token alone."""

    def __init__(self, logits: Tensor) -> None:  # [V, V]
        self.logits = logits

    def step(self, state: Any, token: Tensor) -> tuple[Tensor, Any]:
        return self.logits[token], state


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, None, None), (0.7, 5, None), (1.5, 6, 0.8)])
@crosscheck(
    "sampling by temperature, top-k and top-p: the sampled tokens",
    "transformers, scipy",
    "frequencies of 500,000 samples of two tokens against the library's probabilities, and their χ² test",
)
def test_sampled_tokens(temperature: float, top_k: int | None, top_p: float | None, agree: Agree) -> None:
    random, words, runs = torch.Generator().manual_seed(0), 8, 500_000
    logits = torch.randn(words, words, generator=random, dtype=torch.float64)
    start = torch.zeros(runs, dtype=torch.int64)
    net: Any = Bigrams(logits)
    first, second = generate(net, (), start, 2, temperature, top_k, top_p, generator=random)
    seen = torch.bincount(words * first + second, minlength=words**2)
    theirs = warped(logits, temperature, top_k, top_p)
    expected = (theirs[0, :, None] * theirs).flatten()
    possible = expected > 0
    assert not seen[~possible].any()
    assert stats.chisquare(seen[possible], expected[possible] * runs).pvalue > 0.01
    agree(seen / runs, expected, atol=5 * (0.25 / runs) ** 0.5)  # five standard errors of the largest that may be


class Forced(transformers.LogitsProcessor):
    """Writes the tokens [B, T] first, each with probability 1."""

    def __init__(self, prompt: int, tokens: Tensor, beams: int) -> None:
        self.prompt, self.tokens = prompt, tokens.repeat_interleave(beams, 0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        place = input_ids.shape[1] - self.prompt
        if place >= self.tokens.shape[1]:
            return scores
        return torch.full_like(scores, -torch.inf).scatter(1, self.tokens[:, place, None], 0.0)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("beams", [2, 3, 5, 8])
@crosscheck(
    "beam search with length penalty: tokens and scores",
    "transformers",
    "`generate` on mapped weights; the last five tokens of the prompt are forced, so that the library counts them",
)
@torch.no_grad()
def test_beam_search(beams: int, penalty: float, agree: Agree) -> None:
    """The library divides by L^penalty, and L counts forced tokens: (5 + L)^penalty, 6^penalty times what dlref divides by."""
    (net, theirs, weights), prompt, length = gpt2(tied=False), text(24, 12), CONTEXT - 12
    # Flat distributions, in which the end becomes likelier from position to position: beams stop at different lengths.
    net.norm.load_state_dict({"weight": torch.ones(WIDTH), "bias": torch.zeros(WIDTH)})
    net.embed.learned.weight += 7 * torch.linspace(-1, 1, CONTEXT)[:, None] * net.out.weight[STOP]
    net.out.weight *= 0.2
    theirs.load_state_dict(weights(net.eval()))
    start = prompt.shape[1] - 5
    found = theirs.generate(
        prompt[:, :start], attention_mask=torch.ones_like(prompt[:, :start]), num_beams=beams, do_sample=False,
        length_penalty=penalty, early_stopping=True, max_length=CONTEXT, eos_token_id=STOP, pad_token_id=STOP,
        logits_processor=transformers.LogitsProcessorList([Forced(start, prompt[:, start:], beams)]),
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    tokens, scores = beam_search(net, net.prefill(prompt[:, :-1]), prompt[:, -1], length, beams, STOP, penalty)
    theirs_written = found.sequences[:, prompt.shape[1] :]
    assert (tokens[:, -1] == STOP).all()
    assert theirs_written.shape[1] < length, "a row was cut, where the two differ by definition"
    agree(tokens, torch.nn.functional.pad(theirs_written, (0, tokens.shape[1] - theirs_written.shape[1]), value=STOP))
    agree(scores, found.sequences_scores * 6**penalty, rtol=1e-6)  # which the library sums in float32
