"""Gradients through time: the book's figures, what explains them, and that the networks beside it are torch's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dlref.cli.main import main
from dlref.studies import recurrent_gradients
from dlref.studies.recurrent_gradients import norms_backward, states

Rows = dict[tuple[str, float], dict[str, float | str]]
STEPS, BATCH, WIDTH = 5, 4, 3


def rows(table: list[dict[str, float | str]]) -> Rows:
    return {(str(row["network"]), float(row["factor"])): row for row in table}


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, WIDTH, WIDTH), (4, WIDTH, WIDTH), (STEPS, BATCH, WIDTH))
    recurrent, into, x = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return recurrent, into, x


def test_the_product_explodes_and_vanishes_as_in_the_book() -> None:
    """The book's loop over dh Wh^T in numpy, beside autograd through h_t = h_t-1 Wh + x_t."""
    found = rows(recurrent_gradients.study(factors=[1.0, 0.5]).table)
    assert found["linear", 1.0]["1 back"] == pytest.approx(2.5, abs=0.05)
    assert found["linear", 1.0]["20 back"] == pytest.approx(250, abs=1)
    for factor in (1.0, 0.5):
        dh, wh, norms = np.ones((2, 3)), np.random.RandomState(3).randn(3, 3) * factor, []
        for _ in range(20):
            dh = dh @ wh.T
            norms.append(np.sqrt(np.sum(dh**2)) / 2)
        for k in (1, 5, 10, 15, 20):
            assert found["linear", factor][f"{k} back"] == pytest.approx(norms[k - 1], rel=1e-12)
        weights = torch.from_numpy(wh)[None]
        through = norms_backward(states("linear", weights, weights, torch.zeros(20, 2, 3, dtype=torch.float64), 0.0))
        np.testing.assert_allclose(through, norms, rtol=1e-12)
    assert float(found["linear", 0.5]["20 back"]) < 1e-3


def test_the_spectral_radius_rules_the_long_run_and_the_singular_value_bounds_every_step() -> None:
    for (network, _), row in rows(recurrent_gradients.study(steps=200).table).items():
        start = np.sqrt(2 * 3) / 2
        if network == "linear":
            growth = (float(row["200 back"]) / float(row["150 back"])) ** (1 / 50)
            assert growth == pytest.approx(row["spectral radius"], rel=1e-6)
        if network != "LSTM":
            for k in (1, 50, 100, 150, 200):
                assert float(row[f"{k} back"]) <= start * float(row["singular value"]) ** k


def test_without_inputs_a_tanh_network_is_the_bare_product() -> None:
    found = rows(recurrent_gradients.study(inputs=0.0).table)
    for factor in (1.0, 0.8, 0.5):
        for k in (1, 5, 10, 15, 20):
            bare = found["linear", factor][f"{k} back"]
            assert found["tanh RNN", factor][f"{k} back"] == pytest.approx(bare, rel=1e-12)


def test_a_cell_that_hears_nothing_forgets_by_its_gate_alone() -> None:
    recurrent, into, x = drawn()
    norms = norms_backward(states("LSTM", 0 * recurrent, 0 * into, x, 2.0))
    start = (BATCH * WIDTH) ** 0.5 / BATCH
    assert norms == pytest.approx([start / (1 + np.exp(-2.0)) ** k for k in range(1, STEPS + 1)], rel=1e-12)


def test_the_networks_beside_it_are_torchs() -> None:
    recurrent, into, x = drawn()
    rnn = nn.RNNCell(WIDTH, WIDTH, bias=False, dtype=torch.float64)
    lstm = nn.LSTMCell(WIDTH, WIDTH, dtype=torch.float64)
    order = [1, 2, 0, 3]  # torch's: input gate, forget gate, candidate, output gate
    with torch.no_grad():
        rnn.weight_hh.copy_(recurrent[0].T)
        rnn.weight_ih.copy_(into[0].T)
        lstm.weight_hh.copy_(recurrent[order].mT.flatten(0, 1))
        lstm.weight_ih.copy_(into[order].mT.flatten(0, 1))
        lstm.bias_ih.copy_(torch.tensor([0.0, 1.5, 0.0, 0.0]).repeat_interleave(WIDTH))
        lstm.bias_hh.zero_()
    start = torch.zeros(BATCH, WIDTH, dtype=torch.float64, requires_grad=True)
    hidden, cells, shown = [start], [start], start
    for row in x:
        hidden.append(rnn(row, hidden[-1]))
        shown, cell = lstm(row, (shown, cells[-1]))
        cells.append(cell)
    for ours, torchs in (
        (states("tanh RNN", recurrent, into, x, 1.5), hidden),
        (states("LSTM", recurrent, into, x, 1.5), cells),
    ):
        torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-12)
        assert norms_backward(ours) == pytest.approx(norms_backward(torchs), rel=1e-10)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        *(
            (setting, "they take one or more numbers above 0")
            for setting in ("factors=[0]", "factors=[]", "seed=4294967296")
        ),
        *((setting, "it takes 1 or more") for setting in ("steps=0", "batch=0")),
    ],
)
def test_a_study_of_nothing_is_one_sentence(
    setting: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "recurrent_gradients", setting, f"run_dir={tmp_path}"]) == 2
    assert said in capsys.readouterr().err
