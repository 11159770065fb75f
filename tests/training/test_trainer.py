"""The loop: one update is what the mathematics says, and a run ends when and as it should."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from dlref.data.supervised.spiral import Spiral
from dlref.errors import ConfigError, DivergedError
from dlref.interfaces import Shard
from dlref.metrics import Mean, Totals
from dlref.models.mlp import MLP
from dlref.objectives import Objective
from dlref.objectives.supervised import Classification
from dlref.optimizers.schedules import Constant, Cosine, InverseSquareRoot, Linear, Schedule
from dlref.training import gradient_norm
from dlref.training.config import TrainerConfig
from dlref.training.evaluation import EvaluationStopped, evaluate
from dlref.training.log import Log
from dlref.training.precision import autocast
from dlref.training.progress import Window, monitored
from dlref.training.trainer import Trainer
from tests.conftest import SMALL, first
from tests.training.test_resume import logged

CPU = torch.device("cpu")
NOTHING = lambda *_: {}  # noqa: E731


class Rows(NamedTuple):
    x: Tensor
    y: Tensor


class Ragged:
    """Batches of 3, 1, 4, 1, 5 … rows of one fixed table."""

    unit, sizes, batches_per_epoch = "rows", {}, 5.0
    counts = (3, 1, 4, 1, 5, 2)

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(1)
        self.x, self.y = torch.randn(16, 3, generator=draw).double(), torch.randn(16, 2, generator=draw).double()

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Any:
        number = first_batch
        while True:
            start = sum(self.counts[: number % 6])
            rows = slice(start, start + self.counts[number % 6])
            yield Rows(self.x[rows], self.y[rows])
            number += 1

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Any:
        yield Rows(self.x, self.y)

    def units_per_batch(self, ranks: int) -> float:
        return 16 / 6

    def state_dict(self) -> dict[str, Any]:
        return {}


class Squares(Objective[Rows]):
    def forward(self, batch: Any) -> Totals:
        error = (self.net(batch.x) - batch.y).square().sum(dim=1)
        return {"loss": Mean(error.sum(), len(error)), "largest": Mean(error.max() if len(error) else 0.0, 1)}


class Run(NamedTuple):
    trainer: Trainer
    net: nn.Linear
    saved: list[str]
    signal: int


class Lines(Log):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(None)
        self.kept: list[dict[str, Any]] = []

    def metrics(self, split: str, step: int, seconds: float, metrics: dict[str, float]) -> None:
        self.kept.append({"split": split, "step": step} | metrics)

    def of(self, split: str) -> list[dict[str, Any]]:
        return [line for line in self.kept if line["split"] == split]


def make_trainer(
    objective: Objective[Any], data: Any, optimizer: Any, schedule: Schedule | None = None, **settings: Any
) -> Trainer:
    return Trainer(TrainerConfig(**settings), objective, data, optimizer, schedule or Constant(), Shard(), CPU)


def fit(
    rate: float = 0.01,
    schedule: Schedule | None = None,
    data: Any = None,
    optimizer: Any = torch.optim.SGD,
    log: Log | None = None,
    deferred: bool = False,
    **settings: Any,
) -> Run:
    torch.manual_seed(0)
    net = nn.Linear(3, 2).double()
    objective = Squares(net)
    trainer = make_trainer(objective, data or Ragged(), optimizer(net.parameters(), lr=rate), schedule, **settings)
    if deferred:
        trainer.window = Window(deferred=True)
    saved: list[str] = []
    signal = trainer.fit(log or Log(None), saved.append, NOTHING)
    return Run(trainer, net, saved, signal)


def by_hand(steps: int, accumulate: int = 1, rate: float = 0.01, clip: float = math.inf) -> nn.Linear:
    """Gradient descent on the mean over all rows that a step has seen, as one batch."""
    torch.manual_seed(0)
    net, data = nn.Linear(3, 2).double(), Ragged()
    batches = data.train_batches(net, Shard(), 0)
    for _ in range(steps):
        rows = [next(batches) for _ in range(accumulate)]
        x, y = torch.cat([r.x for r in rows]), torch.cat([r.y for r in rows])
        net.zero_grad()
        (net(x) - y).square().sum(dim=1).mean().backward()
        norm = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()
        with torch.no_grad():
            for p in net.parameters():
                p -= rate * min(1.0, clip / float(norm)) * p.grad
    return net


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-14)


@pytest.mark.parametrize("accumulate", [1, 2, 5])
@pytest.mark.parametrize("clip", [math.inf, 0.7])
def test_accumulated_ragged_batches_are_one_batch(accumulate: int, clip: float) -> None:
    run = fit(max_steps=7, accumulate=accumulate, clip_norm=None if clip == math.inf else clip)
    assert_same_weights(run.net, by_hand(7, accumulate, clip=clip))


def test_the_averaged_weights_are_the_running_mean() -> None:
    run = fit(max_steps=6, ema=0.8)
    mean = None
    for step in range(1, 7):
        weight = by_hand(step).weight
        mean = weight if mean is None else 0.8 * mean + 0.2 * weight
    assert_same_weights(run.net, by_hand(6))
    torch.testing.assert_close(run.trainer.eval_objective.net.weight, mean, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (Constant(), [1, 1, 1, 1]),
        (Constant(warmup=0.5), [0.5, 1, 1, 1]),
        (Constant(warmup=0.75), [1 / 3, 2 / 3, 1, 1]),
        (Constant(warmup=0.1), [1, 1, 1, 1]),  # less than a step
        (Linear(), [1, 0.75, 0.5, 0.25]),
        (Linear(warmup=0.5, final=0.2), [0.5, 1, 1, 0.6]),
        (InverseSquareRoot(warmup=0.25), [1, 1, math.sqrt(1 / 2), math.sqrt(1 / 3)]),
        (Cosine(), [1, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 + math.cos(3 * math.pi / 4)) / 2]),
    ],
)
def test_the_learning_rate_follows_the_fraction_of_the_run_that_is_done(
    schedule: Schedule, factors: list[float]
) -> None:
    assert [schedule(step / 4, (step + 1) / 4) for step in range(4)] == pytest.approx(factors)
    trained = fit(schedule=schedule, max_steps=4, rate=0.01).net
    torch.manual_seed(0)
    net, batches = nn.Linear(3, 2).double(), Ragged().train_batches(None, Shard(), 0)  # type: ignore[arg-type]
    for factor in factors:
        rows = next(batches)
        net.zero_grad()
        (net(rows.x) - rows.y).square().sum(dim=1).mean().backward()
        with torch.no_grad():
            for p in net.parameters():
                p -= 0.01 * factor * p.grad
    assert_same_weights(trained, net)


@pytest.mark.parametrize(
    ("schedule", "last"),
    [
        (Constant(0.2), 1),
        (Linear(0.2, final=0.1), 0.1 + 0.9 / 8),
        (Cosine(0.2, final=0.1), 0.1 + 0.9 * math.sin(math.pi / 16) ** 2),
        (InverseSquareRoot(0.2), math.sqrt(2 / 9)),
    ],
)
def test_warm_up_begins_with_its_fraction_ends_with_all_and_the_last_step_still_learns(
    schedule: Schedule, last: float
) -> None:
    """Ten steps, two of warm-up."""
    factors = [schedule(step / 10, (step + 1) / 10) for step in range(10)]
    assert [*factors[:3], factors[9]] == pytest.approx([1 / 2, 1, 1, last])


class Clock(Ragged):
    """Data and the trainer's clock: a training batch takes 1/64 s, and an evaluation an hour."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.seconds = 0.0
        monkeypatch.setattr("dlref.training.trainer.time", self)

    def perf_counter(self) -> float:
        return self.seconds

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Any:
        for rows in super().train_batches(net, shard, first_batch):
            self.seconds += 1 / 64
            yield rows

    def batches(self, split: str, net: nn.Module, shard: Shard) -> Any:
        self.seconds += 3600
        yield from super().batches(split, net, shard)


def test_seconds_end_a_run_and_drive_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    run = fit(schedule=Linear(), data=Clock(monkeypatch), max_seconds=0.5, max_steps=10**9, log_every=10**6)
    assert run.trainer.progress.seconds == 0.5
    assert run.trainer.progress.step == 32
    assert run.trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 / 32)  # as the last step began


def test_seconds_drive_a_warm_up_whose_first_step_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines()
    settings: dict[str, Any] = {"max_seconds": 0.5, "log_every": 1}
    fit(schedule=Linear(warmup=0.25), data=Clock(monkeypatch), log=lines, **settings)
    factors = [line["lr"] / 0.01 for line in lines.of("train")]
    assert factors == pytest.approx([(n + 1) / 8 for n in range(8)] + [1 - n / 24 for n in range(24)])


def test_evaluating_and_saving_cost_no_training_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    run = fit(data=Clock(monkeypatch), max_steps=20, eval_every=2)
    assert run.trainer.progress.seconds == 20 / 64


def test_epochs_are_turned_into_steps() -> None:
    for epochs, accumulate, steps in ((3, 1, 15), (2.5, 1, 13), (2, 3, 4), (0.01, 1, 1)):
        config = TrainerConfig(max_epochs=epochs, accumulate=accumulate).limit_steps(lambda: 5.0)
        assert config.max_steps == steps


def test_patience_ends_a_run_that_no_longer_improves_and_best_is_the_best() -> None:
    run = fit(rate=0.0, max_steps=100, eval_every=3, monitor="eval/loss min", patience=2)
    assert run.trainer.progress.step == 9  # the first is the best, then two without a better one
    assert run.saved == ["best", "last"]


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ({"max_steps": 8}, [3, 6, 8]),
        ({"max_steps": 6}, [3, 6]),
        ({"max_steps": 2}, [2]),
        ({"max_steps": 100, "eval_every": 4, "monitor": "eval/loss min", "patience": 1, "rate": 0.0}, [3, 6, 8]),
    ],
)
def test_the_steps_after_the_last_full_window_have_a_line_before_the_last_evaluation(
    settings: dict[str, Any], ends: list[int]
) -> None:
    lines, single = Lines(), Lines()
    run = fit(log=lines, log_every=3, **settings)
    assert [line["step"] for line in lines.of("train")] == ends
    assert [line["split"] for line in lines.kept[-2:]] == ["train", "eval"]
    fit(log=single, log_every=1, **settings)
    each, counts = [line["loss"] for line in single.of("train")], [Ragged.counts[n % 6] for n in range(ends[-1])]
    last = slice(ends[-1] - ((ends[-1] - 1) % 3 + 1), ends[-1])
    mean = sum(loss * count for loss, count in zip(each[last], counts[last], strict=True)) / sum(counts[last])
    assert lines.of("train")[-1]["loss"] == pytest.approx(mean, rel=1e-12)
    for name in ("lr", "grad_norm"):
        assert lines.of("train")[-1][name] == single.of("train")[-1][name]
    assert run.trainer.progress.step == ends[-1]


def test_seconds_end_a_run_within_a_window_that_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines()
    fit(data=Clock(monkeypatch), log=lines, max_seconds=20 / 64, log_every=7)
    assert [(line["split"], line["step"]) for line in lines.kept] == [
        *(("train", 7), ("train", 14), ("train", 20), ("eval", 20))
    ]


def test_a_larger_return_is_better_where_the_monitor_says_max() -> None:
    falling = fit(max_steps=6, eval_every=2, monitor="eval/loss max")
    assert falling.saved == ["best", "last"]
    assert fit(max_steps=6, eval_every=2, monitor="eval/loss min").saved == ["best", "best", "best", "last"]


class Broken(Ragged):
    """From batch 5 on the loss, or its gradient alone, is not finite; after batch 7 there is nothing that can be read."""

    def __init__(self, where: str, bad: float) -> None:
        super().__init__()
        self.where, self.bad = where, bad

    def train_batches(self, net: nn.Module, shard: Shard, first_batch: int) -> Any:
        for number, rows in enumerate(super().train_batches(net, shard, first_batch)):
            if number == 4 and self.where == "loss":
                rows = Rows(rows.x * self.bad, rows.y)
            if number == 4 and self.where == "gradient":  # the loss stays finite
                net.weight.register_hook(lambda gradient: gradient * self.bad)
            if number == 7:
                raise ValueError("what follows from weights that are not finite")
            yield rows


@pytest.mark.faults
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_fault_15_nothing_that_is_not_finite_reaches_the_weights(bad: float, where: str) -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2).double()
    optimizer = torch.optim.Adam(net.parameters())
    trainer = make_trainer(Squares(net), Broken(where, bad), optimizer, max_steps=9)
    before: list[Any] = []
    original, trainer.step = trainer.step, lambda *a: (before.append(copy.deepcopy(net.state_dict())), original(*a))[1]  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match=r"step 5 .* learning rate 0\.001"):
        trainer.fit(Log(None), NOTHING, NOTHING)
    assert len(before) == 5
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before[-1].items())


@pytest.mark.faults
@pytest.mark.parametrize(
    ("settings", "saved"),
    [
        ({"log_every": 6}, []),
        ({"log_every": 50, "save_every": 2}, ["last", "last"]),
        ({"log_every": 50, "eval_every": 3, "monitor": "eval/loss min"}, ["best"]),
        ({"log_every": 50, "max_steps": 6}, []),
        ({"log_every": 50}, []),  # an error that follows from it comes first
    ],
)
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_fault_15_a_step_that_is_read_later_is_named_alike_and_nothing_after_it_is_kept(
    where: str, settings: dict[str, Any], saved: list[str]
) -> None:
    """As on a GPU, which no step waits for."""
    for bad in (math.nan, math.inf):
        said, kept = [], []
        for deferred in (False, True):
            torch.manual_seed(0)
            net = nn.Linear(3, 2).double()
            optimizer, limits = torch.optim.Adam(net.parameters()), {"max_steps": 9, "clip_norm": 1.0}
            trainer = make_trainer(Squares(net), Broken(where, bad), optimizer, **limits | settings)
            trainer.window, names = Window(deferred), []
            with pytest.raises(DivergedError) as error:
                trainer.fit(Log(None), names.append, NOTHING)
            said.append(str(error.value).partition(";")[0])
            kept.append(names)
        assert said[0] == said[1]
        assert said[0].startswith("step 5 is not finite")
        assert kept == [saved, saved]


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 0.7}, {"accumulate": 3}, {"clip_norm": 0.7, "accumulate": 2}])
def test_steps_that_are_read_later_train_and_log_the_same(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and losses to the last bit without clipping, else up to the rounding of the norm."""
    monkeypatch.setattr("dlref.training.progress.MAX_WAITING", 3)
    runs: list[tuple[Run, list[dict[str, Any]]]] = []
    for deferred in (False, True):
        lines = Lines()
        run = fit(log=lines, deferred=deferred, max_steps=11, log_every=4, eval_every=3, ema=0.9, **settings)
        runs.append((run, lines.kept))
    near = 1e-12 if "clip_norm" in settings else 0
    torch.testing.assert_close(runs[0][0].net.state_dict(), runs[1][0].net.state_dict(), rtol=near, atol=0)
    for one, other in zip(runs[0][1], runs[1][1], strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"split", "rows_per_second"}:
            assert one[name] == pytest.approx(other[name], rel=1e-12 if name == "grad_norm" else near, abs=0)


def test_the_wait_for_a_device_is_time_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock runs only where the trainer waits: a deferred window of four steps takes a second to read."""
    clock = Clock(monkeypatch)

    class Slow(Window):
        def read(self) -> None:
            clock.seconds += 1
            super().read()

    torch.manual_seed(0)
    net, lines = nn.Linear(3, 2).double(), Lines()
    trainer = make_trainer(Squares(net), clock, torch.optim.SGD(net.parameters()), max_steps=8, log_every=4)
    trainer.window = Slow(deferred=True)
    trainer.fit(lines, NOTHING, NOTHING)
    assert trainer.progress.seconds == 2 + 8 / 64
    assert [line["rows_per_second"] for line in lines.of("train")] == pytest.approx([4 * 16 / 6 / (1 + 4 / 64)] * 2)


@pytest.mark.parametrize("rows", [[0, 0, 2], [2, 0, 2], [0, 1, 3]])
def test_rows_of_a_sparse_gradient_are_each_there_once(rows: list[int]) -> None:
    table, where = nn.Parameter(torch.zeros(4, 2)), torch.tensor(rows)
    values = torch.arange(6.0).view(3, 2)
    table.grad = torch.sparse_coo_tensor(where[None], values, table.shape)
    (found,) = gradient_norm.values([table])
    assert len(found) == len(set(rows))
    torch.testing.assert_close(table.grad.to_dense(), torch.zeros(4, 2).index_add(0, where, values))


def test_sparse_rows_are_scaled_and_clipped_as_dense_ones() -> None:
    rows = torch.tensor([1, 4, 1])
    grads = []
    for sparse in (False, True):
        table = nn.Embedding(6, 3, sparse=sparse)
        with torch.no_grad():
            table.weight.copy_(torch.arange(18.0).view(6, 3))
        table(rows).square().sum().backward()
        found = gradient_norm.values(table.parameters())
        norm = gradient_norm.norm(found)
        gradient_norm.scale_(found, 0.5 / float(norm))
        grads.append((norm, table.weight.grad.to_dense() if sparse else table.weight.grad))
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[0][1].norm(), torch.tensor(0.5))


def test_an_all_padding_batch_changes_nothing() -> None:
    class Nothing(Ragged):
        counts = (0, 0, 0, 0, 0, 0)

    assert_same_weights(fit(data=Nothing(), max_steps=3).net, by_hand(0))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_steps": 0}, "max_steps is 0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"monitor": "loss"}, "direction"),
        ({"patience": 3}, "monitor"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TrainerConfig(**settings)


@pytest.mark.parametrize("model", first("mlp", "seq2seq", of=SMALL))
def test_a_run_logs_the_nll_beside_a_loss_that_is_something_else_alone(
    model: str, trained: Callable[..., Path]
) -> None:
    run = trained(*SMALL[model], "trainer.max_steps=4", "trainer.log_every=2", "reports=null")
    smoothed = "objective.label_smoothing=0.1" in SMALL[model]
    for line in logged(run):
        assert ("nll" in line) == (smoothed and line["split"] == "train")
        assert line.get("nll") != line.get("loss") or "return" in line


def test_a_monitor_of_an_nll_that_is_the_loss_reads_the_loss() -> None:
    assert monitored("eval/nll min", {"loss": 2.0}, has_nll=True) == -2.0
    assert monitored("eval/nll min", {"loss": 3.0, "nll": 2.0}, has_nll=True) == -2.0
    with pytest.raises(ConfigError, match="evaluation has loss, accuracy"):
        monitored("eval/nll min", {"loss": 2.0, "accuracy": 0.5}, has_nll=False)


@pytest.mark.slow
@pytest.mark.parametrize("model", SMALL)
def test_a_compiled_run_trains_what_an_uncompiled_one_does(
    model: str, train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """Without dropout, whose random numbers a compiler may draw in another order."""
    settings = [*SMALL[model], "trainer.max_steps=6", "trainer.log_every=2", "reports=null", "trainer.monitor=null"]
    settings += ["network.dropout=0"] if model not in ("actor_critic", "word2vec") else []  # which have none
    for name, extra in (("plain", []), ("compiled", ["trainer.compile=true"])):
        code, said = train(*settings, *extra, f"run_dir={tmp_path / name}")
        assert code == 0, said
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()] for name in ("plain", "compiled")
    ]
    for a, b in zip(*lines, strict=True):
        for key in {"loss", "nll", "q", "return"} & a.keys():
            assert a[key] == pytest.approx(b[key], rel=1e-4)


def test_compiling_costs_no_training_seconds_whichever_step_it_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is three quarters compiling where the batch has a shape that none before it had."""
    clock, seen = Clock(monkeypatch), set[int]()

    class Compiler:
        def __init__(self, *_: Any) -> None:
            pass

        def take(self) -> float:
            new, shapes = len(seen), {clock.counts[n % 6] for n in range(int(clock.seconds * 64))}
            seen.update(shapes)
            return 3 / 256 if len(seen) > new else 0.0

    monkeypatch.setattr("dlref.training.devices.compile_in_place", Compiler)
    run = fit(data=clock, compile=True, max_steps=12)
    assert len(seen) == 5
    assert run.trainer.progress.seconds == 5 / 256 + 7 / 64


def test_without_a_compiler_the_run_says_so_and_goes_on(
    train: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    code, said = train(*SMALL["mlp"], "trainer.max_steps=2", "trainer.compile=true", f"run_dir={tmp_path / 'run'}")
    assert code == 0
    assert "no C++ compiler" in said


@pytest.mark.parametrize("model", first("lstm_lm", of=["lstm_lm", "transformer_lm", "seq2seq"]))
@pytest.mark.parametrize("one", ["bf16", "float32"])
def test_a_run_goes_on_in_another_precision(
    model: str, one: str, train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    other = {"bf16": "float32", "float32": "bf16"}[one]
    assert train(*SMALL[model], f"trainer.precision={one}", "trainer.max_steps=3", f"run_dir={tmp_path}")[0] == 0
    code, said = train(f"resume={tmp_path}", f"trainer.precision={other}", "trainer.max_steps=5")
    assert code == 0
    assert f"trainer.precision: {one} → {other}" in said


def test_an_evaluation_that_is_told_to_stop_takes_no_further_batch() -> None:
    seen = list[object]()

    class Watched:
        def batches(self, *given: object) -> Iterator[object]:
            for batch in 5 * [*Spiral(points=50).batches(*given)]:  # type: ignore[arg-type]
                seen.append(batch)
                yield batch

    objective, cpu = Classification(MLP(2, 3, [4])), torch.device("cpu")
    with pytest.raises(EvaluationStopped):
        evaluate(objective, Watched(), "eval", Shard(), autocast("float32", cpu), cpu, lambda: len(seen) == 2)
    assert len(seen) == 2
    assert objective.training
