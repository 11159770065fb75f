"""Reports show what the network predicts, and one that fails costs only itself."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from dlref.cli.main import main
from dlref.cli.run_reports import run_reports
from dlref.data.rl.experience import Experience
from dlref.data.supervised.in_memory import InMemory
from dlref.data.supervised.spiral import Spiral
from dlref.data.supervised.tables import Table
from dlref.data.text.markov_chain import MarkovChain
from dlref.interfaces import NamedTargets
from dlref.models.mlp import MLP
from dlref.reports import Report
from dlref.reports.classifier_plots import (
    ConfusionMatrix,
    DecisionBoundary,
    Filters,
    Histograms,
    PredictedAgainstTrue,
    WorstMistakes,
)
from tests.conftest import SMALL, first

CPU = torch.device("cpu")


@pytest.fixture
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Halves(nn.Module):
    """Class 0 left of the origin, class 1 right of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([-x[:, 0], x[:, 0], torch.full_like(x[:, 0], -9)], dim=1) * self.weight


class Shades(InMemory):
    """Images of one shade each, dark ones of class 0 and light ones of class 1; two of `eval` are labeled wrongly."""

    def __init__(self) -> None:
        super().__init__(batch_size=4, seed=0)
        self.classes = ["dark", "light"]
        images = torch.tensor([10, 30, 220, 250, 200]).view(5, 1, 1).expand(5, 3, 4).contiguous().to(torch.uint8)
        self.splits = {
            "eval": (images, torch.tensor([0, 1, 1, 1, 0])),
            "train": (images, torch.tensor([0, 0, 1, 1, 1])),
        }


class Lightness(Halves):
    def forward(self, x: Tensor) -> Tensor:
        shade = x.flatten(1).mean(dim=1)
        return torch.stack([128 - shade, shade - 128], dim=1) * self.weight / 50


@pytest.mark.usefixtures("without_gradients")
def test_the_decision_regions_are_the_predicted_classes() -> None:
    figure: Any = DecisionBoundary(cells=40)(Halves(), Spiral(points=30), "eval")["decision_boundary"]
    figure.set_size_inches(4, 4)
    axes = figure.axes[0]
    axes.collections[-1].remove()  # the points
    axes.axis("off")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    left, right = pixels[200, 120], pixels[200, 280]  # on either side of the middle
    assert not np.array_equal(left, right)
    assert np.array_equal(pixels[250, 120], left)
    assert np.array_equal(pixels[150, 280], right)


class Binary(Spiral, NamedTargets):
    """One output, whose sign says the class, as a table has it whose only target is a label."""

    def __init__(self, task: str) -> None:
        super().__init__(points=30)
        self.task, self.classes = task, ["right"]
        self.splits = {split: (x, (x[:, :1] > 0).float()) for split, (x, _) in self.splits.items()}


class Right(Halves):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] * self.weight


@pytest.mark.usefixtures("without_gradients")
def test_the_decision_regions_of_a_single_output_have_two_colors() -> None:
    figure: Any = DecisionBoundary(cells=40)(Right(), Binary("multilabel"), "eval")["decision_boundary"]
    for shown in figure.axes[0].collections:  # regions and points
        left, right = shown.to_rgba([0, 1])
        assert not np.array_equal(left, right)
    assert DecisionBoundary()(Right(), Binary("regression"), "eval") == {}


@pytest.mark.usefixtures("without_gradients")
def test_the_worst_mistakes_are_sorted_by_the_probability_of_the_true_class() -> None:
    figure: Any = WorstMistakes(count=8)(Lightness(), Shades(), "eval")["worst_mistakes"]
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert [title.split(" (")[0] for title in titles] == ["light → dark", "dark → light"]
    assert "2 of 5" in figure.get_suptitle()
    assert float(figure.axes[0].images[0].get_array().max()) == 30


@pytest.mark.usefixtures("without_gradients")
def test_the_rmse_of_a_column_far_from_0_is_in_its_units(tmp_path: Path) -> None:
    """Single precision has nothing between 1e8 and 1e8 + 8."""
    path = tmp_path / "rows.csv"
    path.write_text("x,y\n" + "\n".join(f"{i},{1e8 + (i % 7) / 1000:.3f}" for i in range(50)))
    data, net = Table(path, ["y"], "regression"), MLP(1, 1, [])
    outputs, targets = net(data.split("eval")[0]), data.split("eval")[1]
    error = float((outputs - targets).square().mean().sqrt()) * data.target_columns[0]["std"]
    assert PredictedAgainstTrue()(net, data, "eval")["rmse.y"] == pytest.approx(error, rel=1e-3)


@pytest.mark.usefixtures("without_gradients")
def test_reports_return_nothing_where_they_do_not_apply() -> None:
    assert DecisionBoundary()(Lightness(), Shades(), "eval") == {}
    assert WorstMistakes()(Halves(), Spiral(points=5), "eval") == {}
    assert WorstMistakes()(Lightness(), Shades(), "train") == {}  # no mistakes
    play, text = Experience("CartPole-v1"), MarkovChain(tokens=1000)
    for report in (
        DecisionBoundary(),
        WorstMistakes(),
        ConfusionMatrix(),
        Filters(),
        PredictedAgainstTrue(),
        Histograms(),
    ):
        for data in (play, text):
            report.prepare(Halves(), data)
            assert report(Halves(), data, "eval") == {}


def test_a_report_leaves_the_network_and_the_random_state_as_they_were() -> None:
    class Dice(Report):
        def __call__(self, net: nn.Module, data: Any, split: str) -> dict[str, Any]:
            assert not net.training
            assert not torch.is_grad_enabled()
            return {"metric": float(torch.rand(())), "text": "so", "plot": Figure()}

    net = Halves()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    metrics, plots, texts, *_ = run_reports({"dice": Dice()}, net, None, "eval", CPU)
    assert torch.equal(torch.rand(3), expected)
    assert net.training
    assert (set(metrics), set(plots), texts) == ({"metric"}, {"plot"}, {"text": "so"})


def test_a_report_that_fails_costs_a_warning_and_no_more(
    train: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DecisionBoundary, "__call__", lambda *_: 1 / 0)
    code, errors = train(*SMALL["mlp"], "trainer.max_steps=3", f"run_dir={tmp_path / 'run'}")
    assert code == 0
    assert "report decision_boundary failed: ZeroDivisionError" in errors


def test_evaluate_writes_a_file_for_each_plot(train: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(*SMALL["mlp"], "trainer.max_steps=3", f"run_dir={run}")
    assert main(["evaluate", str(run)]) == 0
    picture = run / "pictures" / "test_decision_boundary.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "decision_boundary" not in json.loads((run / "evaluation.json").read_text())["metrics"]


@pytest.mark.usefixtures("without_gradients")
def test_the_confusion_matrix_counts_predictions_by_true_class() -> None:
    figure: Any = ConfusionMatrix()(Lightness(), Shades(), "eval")["confusion_matrix"]
    counts = {(t.get_position()[1], t.get_position()[0]): int(t.get_text()) for t in figure.axes[0].texts}
    assert counts == {(0, 0): 1, (0, 1): 1, (1, 0): 1, (1, 1): 2}
    assert "3 of 5 correct" in figure.axes[0].get_title()


@pytest.mark.usefixtures("without_gradients")
def test_filters_show_the_initial_weights_and_the_trained_ones() -> None:
    class Pictures(Shades):
        pass

    net, data, report = MLP(12, 2, [3]), Pictures(), Filters()
    first = net.layers[0].weight.detach().clone()
    report.prepare(net, data)
    net.layers[0].weight.mul_(-2)
    figure: Any = report(net, data, "eval")["filters"]
    before, now = (np.asarray(axes.images[0].get_array()) for axes in figure.axes)
    for i, weights in enumerate(first.view(3, 3, 4)):
        light = (weights - weights.min()) / (weights.max() - weights.min())
        np.testing.assert_allclose(before[:3, 5 * i : 5 * i + 4], light, atol=1e-6)
        np.testing.assert_allclose(now[:3, 5 * i : 5 * i + 4], 1 - light, atol=1e-6)
    assert Filters()(Halves(), Spiral(points=5), "eval") == {}


def test_a_resumed_run_shows_the_initial_filters_of_its_first_start(
    train: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = []
    monkeypatch.setattr(Filters, "__call__", lambda report, *_: before.append(report.before) or {})
    run = tmp_path / "run"
    assert train(*SMALL["cnn"], "trainer.max_steps=4", f"run_dir={run}")[0] == 0
    assert train(f"resume={run}", "trainer.max_steps=6")[0] == 0
    assert len(before) >= 3
    assert all(torch.equal(weights, before[0]) for weights in before)


@pytest.mark.usefixtures("without_gradients")
def test_filters_behind_principal_components_are_shown_as_images() -> None:
    net, data = MLP(12, 2, [3], pca_components=5), Shades()
    net.layers[0].directions.copy_(torch.linalg.qr(torch.randn(12, 5)).Q)
    filters = Filters().weights(net, data)
    x = torch.randn(4, 12)
    assert filters is not None
    torch.testing.assert_close(x @ filters.flatten(1).T, net.layers[0](x) @ net.layers[1].weight.T)


REPORTS = """
import numpy as np, torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from dlref.reports import LabeledVectors, Report
class Mine(Report):
    while_training = True
    def __call__(self, net, data, split):
        return WHAT
"""
FAULTS = {
    "{'a': 1.0, 'b': {'c': 1}}": "its 'b' is of type dict, {'c': 1}; a result is a number",
    "{'b': [1, 2]}": "its 'b' is of type list, [1, 2]; ",
    "{'b': None}": "its 'b' is of type NoneType, None; ",
    "{'b': np.zeros(2)}": "its 'b' is of type ndarray",
    "{'b': torch.zeros(2, dtype=torch.complex64)}": "its 'b' is of type Tensor",
    "{'b': LabeledVectors(torch.zeros(3, 2), ['one'])}": "its 'b' is of type LabeledVectors",
    "{3: 1.0}": "it names a result 3; a name is text",
    "[1.0]": "it returns of type list, [1.0]",
    "1 / 0": "ZeroDivisionError: division by zero",
}


def with_report(tmp_path: Path, what: str) -> list[str]:
    """What to type to have a report that returns this."""
    name = f"report_{abs(hash(what))}"
    (tmp_path / f"{name}.py").write_text(REPORTS.replace("WHAT", what))
    return [f"+reports.mine._target_={name}.Mine", f"plugins={tmp_path / f'{name}.py'}"]


def shown(run: Path) -> Any:
    """What TensorBoard has of a run."""
    return EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "tensors": 0, "histograms": 0}).Reload()


@pytest.mark.parametrize("what", first(*list(FAULTS)[:2], "1 / 0", of=FAULTS))
def test_a_report_at_fault_costs_only_itself(
    what: str, train: Callable[..., tuple[int, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, mine = tmp_path / "run", with_report(tmp_path, what)
    code, errors = train(*SMALL["mlp"], *mine, "trainer.max_steps=3", "trainer.log_every=1", f"run_dir={run}")
    assert code == 0, errors
    assert "report mine failed" in errors
    assert FAULTS[what] in errors
    assert f"{mine[1].removeprefix('plugins=')}, line " in errors
    assert "TensorBoard" not in errors.replace("tensorboard", "")
    events = shown(run)
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert [event.step for event in events.Images("eval/decision_boundary")] == [0, 3]
    assert main(["evaluate", str(run), mine[1]]) == 0
    out, errors = capsys.readouterr()
    assert "report mine failed" in errors
    assert "accuracy" in out
    assert (run / "pictures" / "test_decision_boundary.png").is_file()


def test_numbers_of_numpy_and_torch_are_numbers(train: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    what = "{'a': np.float32(0.5), 'b': np.float64(0.25), 'c': torch.tensor(3), 'd': np.array(2), 'e': True}"
    run = tmp_path / "run"
    mine = with_report(tmp_path, what)
    assert train(*SMALL["mlp"], *mine, "trainer.max_steps=2", f"run_dir={run}")[0] == 0
    logged = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {name: logged[name] for name in "abcde"} == {"a": 0.5, "b": 0.25, "c": 3.0, "d": 2.0, "e": 1.0}
    assert main(["evaluate", str(run), mine[1]]) == 0
    assert json.loads((run / "evaluation.json").read_text())["metrics"]["a"] == 0.5


def test_a_plot_that_cannot_be_rendered_costs_only_that_plot(
    train: Callable[..., tuple[int, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "drawing.py").write_text(
        REPORTS.replace(
            "        return WHAT",
            "        figure = Figure()\n        figure.suptitle('$\\\\nothing$')\n"
            "        return {'mine': figure, 'half': torch.ones(3).bfloat16()}",
        )
    )
    run, mine = tmp_path / "run", ["+reports.mine._target_=drawing.Mine", f"plugins={tmp_path / 'drawing.py'}"]
    code, errors = train(*SMALL["mlp"], *mine, "trainer.max_steps=2", f"run_dir={run}")
    assert code == 0, errors
    assert "eval/mine cannot be shown in TensorBoard" in errors
    events = shown(run)
    assert [event.step for event in events.Images("eval/decision_boundary")] == [0, 2]
    assert [event.step for event in events.Histograms("eval/half")] == [0, 2]
    assert [event.step for event in events.Scalars("eval/loss")] == [2]
    assert main(["evaluate", str(run), mine[1]]) == 0
    out, errors = capsys.readouterr()
    assert "picture mine cannot be drawn" in errors
    assert "test_mine.png" not in out
    assert (run / "pictures" / "test_decision_boundary.png").is_file()
    assert not (run / "pictures" / "test_mine.png").exists()
