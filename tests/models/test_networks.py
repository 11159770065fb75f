"""MLP, CNN, ladder and recurrent network equal their equations layer by layer; impossible settings are refused."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlref.data.supervised.in_memory import Examples
from dlref.equations import layers as equations
from dlref.errors import ConfigError
from dlref.models.cnn import CNN
from dlref.models.ladder import Ladder
from dlref.models.layers import Dropout, PrincipalComponents, initialize
from dlref.models.mlp import MLP
from dlref.models.recurrent_lm import RecurrentLM
from dlref.objectives.supervised import Classification


def test_an_mlp_alternates_affine_layers_and_relu() -> None:
    torch.manual_seed(0)
    net = MLP(6, 4, [5, 7]).double()
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    weights = [p.detach() for p in net.parameters()]
    h = x.reshape(3, 6)
    for w, b in ((weights[0], weights[1]), (weights[2], weights[3])):
        h = (h @ w.T + b).clamp(min=0)
    torch.testing.assert_close(net(x), h @ weights[4].T + weights[5])


def test_principal_components_are_singular_directions_whatever_the_order_of_inputs() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 3
    layer, shuffled = PrincipalComponents(6, 4).double(), PrincipalComponents(6, 4).double()
    layer.fit([x[:20], x[20:]])
    _, _, directions = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)
    torch.testing.assert_close(layer(x).abs(), ((x - x.mean(dim=0)) @ directions[:4].T).abs())
    order = torch.randperm(6)
    shuffled.fit([x[:, order]])
    torch.testing.assert_close(shuffled(x[:, order]).abs(), layer(x).abs())  # the sign of a direction is arbitrary


@pytest.mark.parametrize(
    ("probability", "applied"),
    [(0.0005, 0.0005), (0.0019, 0.0019), (1 / 512, 1 / 512), (0.002, 1 / 256), (0.1, 26 / 256)],
)
@pytest.mark.parametrize("variational", [False, True])
def test_dropout_probabilities_are_rounded_to_multiples_of_1_256th_but_not_to_0(
    probability: float, applied: float, variational: bool
) -> None:
    torch.manual_seed(0)
    kept = Dropout(probability, variational)(torch.ones(1000, 2, 500))
    std = (applied / 500_000) ** 0.5
    assert float((kept[:, 0] == 0).double().mean()) == pytest.approx(applied, abs=4 * std)
    assert float(kept.max()) == pytest.approx(1 / (1 - applied))
    assert torch.equal(kept[:, 0], kept[:, 1]) == variational


def test_word_dropout_with_a_small_probability_is_applied() -> None:
    torch.manual_seed(0)
    vectors = RecurrentLM(20_000, 3, word_dropout=0.0015).embed_words(torch.arange(20_000)[None])
    assert float((vectors == 0).all(-1).sum()) == pytest.approx(30, abs=4 * 30**0.5)


def test_an_objective_fits_the_principal_components_of_an_mlp_to_all_training_inputs() -> None:
    torch.manual_seed(0)
    images = torch.randn(40, 2, 3)
    net = MLP(6, 4, [5], pca_components=3, input_noise=0.5).eval()
    expected = PrincipalComponents(6, 3)
    expected.fit([images.flatten(1)])
    Classification(net).fit(Examples(part, torch.zeros(len(part))) for part in images.split(16))
    torch.testing.assert_close(net.layers[0](images.flatten(1)), expected(images.flatten(1)))


def test_noise_and_dropout_are_applied_in_training_only() -> None:
    net = MLP(6, 4, [50], dropout=0.5, input_dropout=0.3, input_noise=0.4)
    x = torch.randn(5, 6)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 0.9])
def test_dropout_is_independent_for_each_unit_and_keeps_the_mean(probability: float) -> None:
    torch.manual_seed(0)
    x = torch.full((8, 8, 5003), 3.0, dtype=torch.float64, requires_grad=True)
    layer = Dropout(probability)
    y = layer(x)
    exact = round(256 * probability) / 256
    torch.testing.assert_close(y.unique()[-1].item(), 3 / (1 - exact))
    lanes = (y == 0).double().flatten().view(-1, 8)  # the eight units of one random number
    std = (exact * (1 - exact) / len(lanes)) ** 0.5
    assert ((lanes.mean(dim=0) - exact).abs() <= 4.5 * std).all()
    for i, j in ((0, 1), (3, 7)):  # are independent too
        assert abs(float((lanes[:, i] * lanes[:, j]).mean()) - exact**2) <= 4.5 * std
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach() / 3)  # dropped units have no gradient
    assert torch.equal(layer.eval()(x), x)


def test_batch_norm_standardizes_each_unit_over_the_batch_in_training() -> None:
    net = MLP(6, 4, [5], norm="batch")
    hidden = net.layers[:2](100 * torch.randn(64, 6) + 30)
    torch.testing.assert_close(hidden.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(hidden.std(0, correction=0), torch.ones(5), atol=1e-3, rtol=0)


def test_layer_norm_standardizes_the_units_of_each_example() -> None:
    x = 100 * torch.randn(4, 6, 6) + 30
    hidden = MLP(36, 4, [50], norm="layer").layers[:2](x.flatten(1))
    channels = CNN(6, 6, 4, blocks=[[3]], widths=[], norm="layer").features[:2](x[:, None]).flatten(1)
    for units in (hidden, channels):
        torch.testing.assert_close(units.mean(1), torch.zeros(4), atol=1e-4, rtol=0)
        torch.testing.assert_close(units.std(1, correction=0), torch.ones(4), atol=1e-3, rtol=0)


def test_networks_with_layer_norm_depend_on_the_scale_of_their_inputs() -> None:
    """Without the bias before the norm they would not."""
    mlp, cnn = MLP(36, 4, [50], norm="layer"), CNN(6, 6, 4, blocks=[[3]], widths=[5], norm="layer")
    x = torch.randn(2, 6, 6)
    assert not torch.allclose(mlp(x), mlp(2 * x), atol=1e-2)
    assert not torch.allclose(cnn(x), cnn(2 * x), atol=1e-2)


@pytest.mark.parametrize(
    "settings",
    [
        {"widths": [0]},
        {"widths": [3], "dropout": 1.0},
        {"widths": [3], "input_dropout": -0.1},
        {"widths": [3], "pca_components": 3},
    ],
)
def test_an_impossible_mlp_is_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match="network"):
        MLP(2, 2, **settings)


def test_the_recurrent_network_equals_an_lstm_step_by_step() -> None:
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, one sample and one step at a time."""
    torch.manual_seed(0)
    net = RecurrentLM(vocab_size=9, width=4).double()
    tokens = torch.randint(9, (2, 6))
    logits, (h_end, c_end) = net(tokens)
    p = {name: value.detach() for name, value in net.named_parameters()}
    for row in range(2):
        h, c = torch.zeros(2, 4, dtype=torch.float64)
        for t, token in enumerate(tokens[row].tolist()):
            gates = p["recurrent.layers.0.weight_ih_l0"] @ p["embed.weight"][token] + p["recurrent.layers.0.bias_ih_l0"]
            gates = gates + p["recurrent.layers.0.weight_hh_l0"] @ h + p["recurrent.layers.0.bias_hh_l0"]
            i, f, g, o = gates.split(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            torch.testing.assert_close(logits[row, t], p["embed.weight"] @ h + p["out.bias"])
        torch.testing.assert_close((h_end[row], c_end[row]), (h, c))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_recurrent_network_token_by_token_equals_all_tokens_at_once(cell: Any) -> None:
    torch.manual_seed(0)
    net = (
        RecurrentLM(vocab_size=9, width=4, layers=2, hidden=5, cell=cell, dropout=0.5, weight_drop=0.5).double().eval()
    )
    tokens = torch.randint(9, (3, 7))
    expected, _ = net(tokens)
    for prompt in (0, 3):  # tokens
        state = net.prefill(tokens[:, :prompt])
        for t in range(prompt, 7):
            logits, state = net.step(state, tokens[:, t])
            torch.testing.assert_close(logits, expected[:, t])
    rows = tuple(part[[2, 0]] for part in net.prefill(tokens))  # rows of a state can be reordered
    torch.testing.assert_close(
        net.step(rows, tokens[[2, 0], 0])[0], net.step(net.prefill(tokens), tokens[:, 0])[0][[2, 0]]
    )


def test_a_sparse_embedding_gradient_equals_the_dense_one() -> None:
    tokens = torch.randint(9, (3, 7))
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        net = RecurrentLM(9, 4, tied=False, sparse=sparse)
        net(tokens)[0].square().sum().backward()
        assert net.embed.weight.grad is not None
        found.append(net.embed.weight.grad.to_dense())
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    "settings",
    [{"layers": 0}, {"hidden": 0}, {"dropout": 1.0}, {"weight_drop": -0.1}, {"word_dropout": 1.5}, {"sparse": True}],
)
def test_an_impossible_recurrent_network_is_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match="network"):
        RecurrentLM(9, 4, **settings)


def test_an_untrained_language_model_is_nearly_uniform() -> None:
    logits, _ = RecurrentLM(vocab_size=50, width=16)(torch.randint(50, (4, 7)))
    nats = -logits.log_softmax(-1).mean()
    assert float(nats.detach()) == pytest.approx(math.log(50), abs=0.05)


def test_a_cnn_equals_its_equations() -> None:
    """Two blocks, one of them of two convolutions."""
    torch.manual_seed(0)
    net, images = CNN(9, 8, 3, blocks=[[2, 3], [4]], widths=[5]).double(), torch.randn(2, 9, 8, dtype=torch.float64)
    weights, h = iter(net.parameters()), images[:, None]
    for block in (2, 1):
        for _ in range(block):
            h = equations.relu(equations.convolution(h, next(weights), next(weights), stride=1, padding=1))
        h = equations.max_pooling(h, 2, 2)
    h = equations.relu(equations.affine(h.flatten(1), next(weights), next(weights)))
    torch.testing.assert_close(net(images), equations.affine(h, next(weights), next(weights)), rtol=1e-10, atol=1e-10)


def test_the_simple_cnn_of_the_book_has_the_book_s_sizes() -> None:
    net = CNN(28, 28, 10, blocks=[[30]], kernel=5, padding="valid", widths=[100])
    assert [tuple(p.shape) for p in net.parameters() if p.ndim > 1] == [(30, 1, 5, 5), (100, 4320), (10, 100)]


@pytest.mark.parametrize(
    "settings", [{"blocks": [[2], [2], [2], [2]]}, {"blocks": [[0]]}, {"kernel": 4}, {"kernel": 9, "padding": "valid"}]
)
def test_an_impossible_cnn_is_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match=r"network\."):
        CNN(**{"rows": 9, "columns": 8, "outputs": 3, "blocks": [[2]], "widths": [5]} | settings)


@pytest.mark.parametrize(
    ("init", "std"),
    [(0.3, 0.3), ("lecun", (1 / 300) ** 0.5), ("xavier", (2 / 700) ** 0.5), ("he", (2 / 300) ** 0.5)],
)
def test_weights_are_initialized_with_the_requested_std(init: Any, std: float) -> None:
    torch.manual_seed(0)
    layer, recurrent = nn.Linear(300, 400), nn.LSTM(300, 100)  # whose four gates have as many units
    for part in (layer, recurrent):
        initialize(part, init)
    for weight in (layer.weight, recurrent.weight_ih_l0):
        assert float(weight.std()) == pytest.approx(std, rel=0.02)
    assert not any(bias.any() for bias in (layer.bias, recurrent.bias_ih_l0, recurrent.bias_hh_l0))


def test_a_convolution_is_initialized_by_the_number_of_inputs_of_one_output() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(20, 50, (5, 3))
    initialize(layer, "he")
    assert float(layer.weight.std()) == pytest.approx((2 / (20 * 5 * 3)) ** 0.5, rel=0.03)


def test_a_perceptron_without_hidden_layers_is_one_affine_unit() -> None:
    assert [tuple(p.shape) for p in MLP(2, 1, []).parameters()] == [(1, 2), (1,)]


def test_a_ladder_equals_its_equations() -> None:
    torch.manual_seed(0)
    net = Ladder(4, 3, [5, 6], noise=0, input_noise=0).double()
    for parameter in net.parameters():  # also those initialized at 0 or 1
        nn.init.normal_(parameter)
    x = torch.randn(7, 2, 2, dtype=torch.float64)
    outputs, errors = net.denoise(x)

    def batch_norm(x: Tensor) -> Tensor:
        return equations.batch_norm(x, torch.ones(x.shape[1]), torch.zeros(x.shape[1]), 1e-5)

    values = [x.flatten(1)]
    h = values[0]
    for layer, (up, bias) in enumerate(zip(net.up, net.biases, strict=True)):
        values.append(batch_norm(h @ up.weight.T))
        h = values[-1] + bias
        h = equations.relu(h) if layer < 2 else h * net.scale
    torch.testing.assert_close(outputs, h)
    u = equations.softmax(h)
    for layer in (3, 2, 1, 0):
        lateral = net.laterals[layer]
        estimate = equations.lateral(values[layer], batch_norm(u), lateral.a, lateral.b, lateral.c, lateral.d)
        u = estimate @ net.down[layer - 1].weight.T if layer else estimate
    torch.testing.assert_close(errors, ((u - x.flatten(1)) ** 2).sum(1))


@pytest.mark.parametrize(("noise", "input_noise"), [(0.0, 0.3), (0.3, 0.0), (0.0, 0.0)])
def test_a_ladder_adds_noise_to_its_inputs_and_layers_in_training(noise: float, input_noise: float) -> None:
    net, x = Ladder(6, 4, [5], noise=noise, input_noise=input_noise), torch.randn(9, 6)
    assert torch.equal(net(x), net(x)) == (noise == input_noise == 0)


def test_a_ladder_in_evaluation_equals_an_mlp_with_batch_norm() -> None:
    torch.manual_seed(0)
    ladder, mlp = Ladder(6, 4, [5, 7], pca_components=3), MLP(6, 4, [5, 7], norm="batch", pca_components=3)
    images = torch.randn(40, 6)
    for net in (ladder, mlp):
        net.fit([images])
    assert not torch.equal(
        ladder(images), ladder(images)
    )  # noise in training, which also updates the running statistics
    for bias in ladder.biases:
        nn.init.normal_(bias)
    linears = [layer for layer in mlp.layers if isinstance(layer, nn.Linear)]
    norms = [layer for layer in mlp.layers if isinstance(layer, nn.BatchNorm1d)]
    with torch.no_grad():
        for up, norm, bias, linear, twin in zip(ladder.up, ladder.norms, ladder.biases, linears, norms, strict=False):
            linear.weight.copy_(up.weight)
            twin.bias.copy_(bias)
            twin.running_mean.copy_(norm.running_mean)
            twin.running_var.copy_(norm.running_var)
        last, norm = linears[-1], ladder.norms[-1]
        scale = ladder.scale / (norm.running_var + norm.eps).sqrt()
        last.weight.copy_(ladder.up[-1].weight * scale[:, None])
        last.bias.copy_(ladder.biases[-1] * ladder.scale - norm.running_mean * scale)
    torch.testing.assert_close(ladder.eval()(images), mlp.eval()(images))
