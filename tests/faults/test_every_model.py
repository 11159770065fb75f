"""The faults that are the same for all models, tried with each: those that no other test of the fault trains, too."""

import functools
import itertools
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dlref.cli.main import main
from dlref.errors import CheckpointError
from dlref.metrics import Mean, Totals
from dlref.objectives.kneser_ney import KneserNey
from dlref.objectives.ppmi_svd import PPMISVD
from dlref.training.checkpoint import Checkpoints, open_checkpoint
from dlref.training.trainer import Trainer
from tests.conftest import first, needs_linux, resource
from tests.faults.hostile import bomb
from tests.faults.processes import Child, refusal
from tests.faults.test_broken_checkpoints import damaged, say
from tests.faults.test_killed_saves import SAVES, killed_in_its_saves
from tests.faults.test_resources import assert_says_what_to_turn_down, fill_disk, little_memory
from tests.training.test_resume import EVERY, FITTED, FURTHER, assert_same, everything, logged

pytestmark = pytest.mark.faults
Train = Callable[..., tuple[int, str]]
StartChild = Callable[..., Child]
Trained = Callable[..., Path]
Copy = Callable[[str], Path]
ALL = EVERY | FITTED
LAST = {model: 1 if model in FITTED else 4 for model in ALL}  # the step that a finished run has come to


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of a model, with checkpoints of the steps 2 and 4; of one that is fitted at once, of step 1."""
    folder = tmp_path_factory.mktemp("every")

    def one(model: str) -> Path:
        line = [*ALL[model], "~reports", "trainer.max_steps=4", "trainer.save_every=2", "trainer.monitor=null"]
        if not (folder / model).exists():
            assert main(["train", "device=cpu", "threads=1", *line, f"run_dir={folder / model}"]) == 0
        return folder / model

    return one


@pytest.fixture
def copy(finished: Callable[[str], Path], tmp_path: Path) -> Copy:
    def one(model: str) -> Path:
        return Path(shutil.copytree(finished(model), tmp_path / model, symlinks=True))

    return one


def newest(run: Path) -> Path:
    return Checkpoints(run / "checkpoints").numbered("step")[-1]


@pytest.mark.parametrize("model", first("perceptron", of=FURTHER | FITTED))
def test_fault_01_every_further_model_killed_within_a_save_goes_on_bit_for_bit(
    model: str, train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    settings = [*ALL[model], "~reports", *(SAVES if model in FURTHER else [])]
    moments = range(5, 10_000, 150 if model in FURTHER else 25)
    assert killed_in_its_saves(settings, moments, train, train_child, tmp_path) > 50


@pytest.mark.parametrize("model", FURTHER)
def test_fault_05_a_further_model_from_another_machine_is_warned_of_and_goes_on(
    model: str, copy: Copy, train: Train
) -> None:
    run = copy(model)
    say(newest(run), threads=7, versions={"torch": "1.13"}, hardware={"cpu": "abacus", "gpu": "H100"})
    code, said = train(f"resume={run}", "trainer.max_steps=6")
    assert code == 0
    for was in ("threads was 7", "torch was 1.13", "cpu was abacus", "gpu was H100"):
        assert f"{was} and is " in said
    assert "not bit-exact" in said
    assert everything(run)["training.pt"]["progress"]["step"] == 6


SIZES = {
    "mlp": "network.widths=[16,13]",
    "cnn": "network.widths=[6]",
    "lstm_lm": "network.width=14",
    "seq2seq": "network.hidden=10",
    "transformer": "network.width=12",
    "transformer_lm": "network.width=12",
    "word2vec": "network.width=7",
    "dqn": "network.widths=[17]",
    "reinforce": "network.widths=[9]",
    "actor_critic": "network.widths=[9]",
    "perceptron": "network.widths=[3]",
    "ladder": "network.widths=[13,8]",
    "ppmi_svd": "network.width=7",
}


@pytest.mark.parametrize("model", SIZES)
def test_fault_06_a_network_of_another_size_is_refused_by_what_differs(model: str, copy: Copy, train: Train) -> None:
    run = copy(model)
    code, said = train(f"resume={run}", SIZES[model], "trainer.max_steps=6")
    assert code == 4
    key, _, value = SIZES[model].partition("=")
    assert str(newest(run)) in refusal(said)
    assert key in refusal(said)
    assert f"→ {value.replace(',', ', ')}" in refusal(said)
    if model not in FITTED:
        assert " there" in refusal(said), "a weight of another shape, or one that is only on one side"
    assert newest(run).name == f"step-{LAST[model]:08d}"


@pytest.mark.parametrize("model", first("cnn", "seq2seq", "word2vec", "q_table", of=EVERY))
def test_fault_06_data_of_another_seed_are_refused_unless_they_are_meant(model: str, copy: Copy, train: Train) -> None:
    run = copy(model)
    code, said = train(f"resume={run}", "seed=3", "trainer.max_steps=6")
    assert code == 4
    assert "seed 0 → 3" in refusal(said)
    assert "trainer.allow_other_data=true" in refusal(said)
    code, said = train(f"resume={run}", "seed=3", "trainer.max_steps=6", "trainer.allow_other_data=true")
    assert code == 0
    assert "the data start again" in said
    assert everything(run)["training.pt"]["progress"]["step"] == 6


@pytest.mark.parametrize("model", ALL)
def test_fault_07_each_broken_file_is_named_and_the_checkpoint_before_is_taken(model: str, copy: Copy) -> None:
    last = newest(copy(model))
    before = Checkpoints(last.parent).numbered("step")[:-1]
    for file in damaged(last):
        with pytest.raises(CheckpointError, match=file.name):
            open_checkpoint(last)
        found = Checkpoints(last.parent).newest("step")
        assert ([found.path] if found else []) == before
    assert open_checkpoint(last).step == LAST[model]


@pytest.mark.parametrize("model", FURTHER)
def test_fault_08_the_newest_of_a_further_model_by_step_counts_where_last_leads_nowhere(
    model: str, finished: Callable[[str], Path], copy: Copy, train: Train
) -> None:
    run = copy(model)
    shutil.rmtree(newest(run))
    code, said = train(f"resume={run}")
    assert code == 0
    assert f"{run / 'checkpoints' / 'last'} points at a checkpoint that is gone" in said
    assert_same(everything(run), everything(finished(model)))


@pytest.mark.parametrize("model", FITTED)
def test_fault_08_what_was_fitted_at_once_is_fitted_again_where_last_leads_nowhere(
    model: str, finished: Callable[[str], Path], copy: Copy, train: Train
) -> None:
    run = copy(model)
    shutil.rmtree(newest(run))
    code, said = train(f"resume={run}")
    assert code == 4
    assert f"{run} has no whole checkpoint" in refusal(said)
    assert train(*FITTED[model], "~reports", f"run_dir={run}", "resume=auto")[0] == 0
    assert_same(everything(run), everything(finished(model)))


@pytest.mark.parametrize("model", first("lstm_lm", "dqn", "ladder", "ppmi_svd", of=ALL))
def test_fault_09_a_pickle_bomb_in_any_file_of_any_model_is_refused(
    model: str, copy: Copy, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last, marker = newest(copy(model)), tmp_path / "exploded"
    for name in ["weights.pt"] if model in FITTED else ["weights.pt", "training.pt", "rank-0.pt"]:
        whole = (last / name).read_bytes()
        torch.save(bomb(marker), last / name)
        say(last)
        code, said = train(f"resume={last}", "trainer.max_steps=6")
        assert code == 4
        assert str(last / name) in refusal(said)
        if name == "weights.pt":
            assert main(["evaluate", str(last)]) == 4
            assert str(last / name) in refusal(capsys.readouterr().err)
        (last / name).write_bytes(whole)
    assert not marker.exists()


@pytest.mark.parametrize("model", first("q_table", "ngram", of=FURTHER | FITTED))
def test_fault_10_a_full_disk_costs_no_checkpoint_of_a_further_model(
    model: str, train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    """Of what is fitted at once there is no checkpoint before: nothing half is left, and it is fitted anew."""
    settings = [*ALL[model], "~reports", "trainer.max_steps=9", "trainer.save_every=3", "trainer.monitor=null"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    hurt: Callable[[], None] = functools.partial(fill_disk, 0.3) if model in FURTHER else no_room
    code, said = train_child(*settings, f"run_dir={run}", hurt=hurt).ended()
    assert code == 6
    assert "make room" in refusal(said)
    left = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert left == (["last", "step-00000003"] if model in FURTHER else [])
    assert train(*settings, f"run_dir={run}", "resume=auto")[0] == 0
    assert train(*settings, f"run_dir={whole}")[0] == 0
    assert_same(everything(run), everything(whole))
    assert logged(run) == logged(whole)


def no_room() -> None:
    """From the first save on no file may grow beyond a few bytes."""
    original = Checkpoints.save

    def save(self: Checkpoints, *arguments: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
        original(self, *arguments)

    Checkpoints.save = save  # type: ignore[method-assign]


def poison(kind: str, batch: int) -> None:
    """Whatever the objective: one training batch gives a loss that is no number, or one whose gradient is infinite."""
    original, batches = Trainer.__init__, 0

    def poisoned(forward: Callable[..., Totals], objective: Any, part: Any) -> Totals:
        nonlocal batches
        totals = forward(part)
        batches += objective.training
        if not objective.training or batches != batch:
            return totals
        weight = next(objective.net.parameters())
        nothing = ((weight - weight.detach()).sum() * 1e30) * 1e30  # 0, and its slope is beyond float32
        total = totals["loss"].total * math.nan if kind == "loss" else totals["loss"].total + nothing
        return totals | {"loss": Mean(total, totals["loss"].count)}

    def poisoned_init(self: Trainer, config: Any, objective: Any, *arguments: Any) -> None:
        original(self, config, objective, *arguments)
        objective.forward = functools.partial(poisoned, objective.forward, objective)

    Trainer.__init__ = poisoned_init  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("kind", "model"),
    first(("loss", "q_table"), ("gradient", "ladder"), of=itertools.product(["loss", "gradient"], FURTHER)),
)
def test_fault_15_divergence_of_a_further_model_keeps_the_last_checkpoint(
    kind: str, model: str, train: Train, trained: Trained, train_child: StartChild, tmp_path: Path
) -> None:
    settings = [*FURTHER[model], "~reports", "trainer.save_every=3", "trainer.monitor=null", "schedule=constant"]
    run = tmp_path / "run"
    code, said = train_child(
        *settings, "trainer.max_steps=12", f"run_dir={run}", hurt=functools.partial(poison, kind, 8)
    ).ended()
    assert code == 5
    assert "step 8 is not finite" in refusal(said)
    assert ("loss nan" if kind == "loss" else "gradient norm inf") in refusal(said)
    six = everything(trained(*settings, "trainer.max_steps=6"))
    for name in ("weights.pt", "rank-0.pt"):
        assert_same(everything(run)[name], six[name])
    assert train(f"resume={run}")[0] == 0
    assert everything(run)["training.pt"]["progress"]["step"] == 12


@pytest.mark.parametrize(
    ("size", "model"),
    first(
        *((1, model) for model in ("cnn", "lstm_lm", "transformer", "word2vec", "dqn")),
        *((5000, model) for model in ("mlp", "seq2seq", "transformer_lm", "q_table")),
        of=itertools.product([1, 5000], [model for model in EVERY if model not in ("reinforce", "actor_critic")]),
    ),
)
def test_fault_16_a_batch_of_one_and_one_of_more_than_there_is_have_a_loss_or_are_refused(
    size: int, model: str, train: Train, tmp_path: Path
) -> None:
    settings = [*EVERY[model], f"data.batch_size={size}", "~reports", "trainer.max_steps=2", "trainer.log_every=1"]
    code, said = train(*settings, f"run_dir={tmp_path / 'run'}")
    if size == 1 and model in ("mlp", "cnn", "ladder"):  # with batch norm
        assert code == 3
        assert "a batch of 1 has no variance" in refusal(said)
        return
    assert code == 0
    losses = [line["loss"] for line in logged(tmp_path / "run") if line["split"] == "train"]
    assert len(losses) == 2, "a figure that is not finite is not logged"
    assert all(map(math.isfinite, losses))


@needs_linux
@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("cnn", "widths=[400000,400000]"),
        ("word2vec", "width=16000000"),
        ("reinforce", "widths=[400000,400000]"),
        ("actor_critic", "widths=[400000,400000]"),
        ("perceptron", "widths=[400000,400000]"),
        ("ladder", "widths=[400000,400000]"),
    ],
)
def test_fault_20_any_network_that_does_not_fit_is_refused_before_it_is_made(
    model: str, size: str, train_child: StartChild, tmp_path: Path
) -> None:
    words = ["data.min_freq=1"] if model == "word2vec" else []  # so many that no machine has the memory
    line = [*ALL[model], *words, f"network.{size}", f"run_dir={tmp_path / 'run'}"]
    code, said = train_child(*line, hurt=functools.partial(little_memory, 2**30)).ended()
    assert code == 6
    assert "training this network takes " in refusal(said)
    assert_says_what_to_turn_down(refusal(said))
    assert not (tmp_path / "run" / "checkpoints").exists()


@needs_linux
def test_fault_20_vectors_that_are_counted_and_do_not_fit_are_refused(train_child: StartChild, tmp_path: Path) -> None:
    line = [*FITTED["ppmi_svd"], "network.width=16000000", f"run_dir={tmp_path / 'run'}"]
    code, said = train_child(*line, hurt=functools.partial(little_memory, 2**30)).ended()
    assert code == 6
    assert "training this network takes " in refusal(said)
    assert_says_what_to_turn_down(refusal(said))


@pytest.mark.parametrize("model", first("ladder", "ngram", of=FURTHER | FITTED))
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nmore"), MemoryError()])
def test_fault_20_memory_that_runs_out_in_any_further_model_is_answered_alike(
    error: Exception, model: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: Any) -> None:
        raise error

    run = tmp_path / "run"
    settings = [*ALL[model], "~reports", "trainer.save_every=3", "trainer.monitor=null", "trainer.max_steps=9"]
    if model in FITTED:
        for cls in (PPMISVD, KneserNey):
            monkeypatch.setattr(cls, "fit", run_out)
    else:
        assert train(*settings, f"run_dir={run}", "trainer.max_steps=3")[0] == 0
        monkeypatch.setattr(Trainer, "step", run_out)
    code, said = train(*settings, f"run_dir={run}", "resume=auto")
    assert code == 6
    assert "out of memory (" in refusal(said)
    assert_says_what_to_turn_down(refusal(said))
    if model in FITTED:
        assert not (run / "checkpoints").exists()
    else:
        assert everything(run)["training.pt"]["progress"]["step"] == 3


# What each command that uses a model is for.
SUITS = {
    "generate": ("lstm_lm", "transformer_lm", "ngram"),
    "translate": ("seq2seq", "transformer"),
    "predict": ("mlp", "cnn", "perceptron", "ladder"),
    "neighbors": ("word2vec", "ppmi_svd"),
    "play": ("dqn", "q_table", "reinforce", "actor_critic"),
}


def test_fault_29_every_model_has_a_command() -> None:
    assert sorted(itertools.chain(*SUITS.values())) == sorted(ALL)


@pytest.mark.parametrize("model", ALL)
def test_fault_29_a_command_for_another_kind_of_model_is_refused_with_the_remedy(
    model: str, finished: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text("x,y\n1,2\n")
    arguments = {
        "predict": [str(tmp_path / "rows.csv")],
        "neighbors": ["the"],
        "translate": [str(tmp_path / "rows.csv")],
    }
    run = finished(model)
    capsys.readouterr()
    for name, models in SUITS.items():
        if model in models:
            continue
        assert main([name, str(run), *arguments.get(name, [])]) == 4, name
        out, said = capsys.readouterr()
        assert not out
        assert str(run) in refusal(said)
        assert len(said.splitlines()) == 1


@pytest.mark.parametrize("model", ALL)
def test_fault_29_a_run_that_has_lost_its_checkpoints_is_named(
    model: str, copy: Copy, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy(model)
    shutil.rmtree(run / "checkpoints")
    (name,) = (name for name, models in SUITS.items() if model in models)
    for line in (["evaluate", str(run)], [name, str(run), *(["x"] if name in ("predict", "neighbors") else [])]):
        assert main(line) == 4
        assert f"{run} has no whole checkpoint" in refusal(capsys.readouterr().err)
    code, said = train(f"resume={run}")
    assert code == 4
    assert f"{run} has no whole checkpoint" in refusal(said)
