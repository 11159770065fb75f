"""A loss or a gradient that is no number: every rank stops before the weights have seen it."""

import functools
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlref.metrics import Mean, Totals
from tests.conftest import SMALL, first
from tests.faults.processes import Child, refusal
from tests.faults.test_ranks import two_ranks
from tests.training.test_resume import assert_same, everything

pytestmark = pytest.mark.faults
Train = Callable[..., tuple[int, str]]
StartChild = Callable[..., Child]
Trained = Callable[..., Path]
SETTINGS = ["~reports", "trainer.save_every=3", "trainer.monitor=null", "schedule=constant", "trainer.log_every=1"]


def poison(kind: str, batch: int, rank: str = "0") -> None:
    """On one rank, one training batch gives a loss that is not a number, or a finite one whose gradient is infinite."""
    from dlref.objectives.language_modelling import LanguageModelling
    from dlref.objectives.policy_gradient import PolicyGradient
    from dlref.objectives.q_learning import QLearning
    from dlref.objectives.supervised import Classification
    from dlref.objectives.translation import Translation
    from dlref.objectives.word2vec import SkipGram

    if os.environ.get("RANK", "0") != rank:
        return
    batches = 0

    def poisoned(forward: Callable[..., Totals], self: Any, part: Any) -> Totals:
        nonlocal batches
        totals = forward(self, part)
        batches += self.training
        if self.training and batches == batch:
            weight = next(self.net.parameters())
            nothing = ((weight - weight.detach()).sum() * 1e30) * 1e30  # 0, and its slope is beyond float32
            total = totals["loss"].total * float("nan") if kind == "loss" else totals["loss"].total + nothing
            return totals | {"loss": Mean(total, totals["loss"].count)}
        return totals

    for cls in (Classification, LanguageModelling, PolicyGradient, QLearning, SkipGram, Translation):
        cls.forward = functools.partialmethod(functools.partial(poisoned, cls.forward))  # type: ignore[assignment]


def says(kind: str, sentence: str) -> bool:
    return (
        ("loss nan" in sentence) if kind == "loss" else ("gradient norm inf" in sentence and "loss nan" not in sentence)
    )


@pytest.mark.parametrize(
    ("kind", "model"),
    first(
        *(("loss", "dqn"), ("gradient", "mlp")),
        of=itertools.product(["loss", "gradient"], SMALL),
    ),
)
def test_fault_15_divergence_ends_the_run_before_the_update_and_keeps_the_last_checkpoint(
    kind: str, model: str, train: Train, trained: Trained, train_child: StartChild, tmp_path: Path
) -> None:
    settings = [*SMALL[model], *SETTINGS, "optimizer.lr=0.0078125"]
    run = tmp_path / "run"
    code, said = train_child(
        *settings, "trainer.max_steps=12", f"run_dir={run}", hurt=functools.partial(poison, kind, 8)
    ).ended()
    assert code == 5
    assert "step 8 " in refusal(said)
    assert "learning rate 0.0078125" in refusal(said)
    assert says(kind, refusal(said))
    # What is kept is what a run that ended there has: the poison came two steps later.
    kept, six = everything(run), everything(trained(*settings, "trainer.max_steps=6"))
    for name in ("weights.pt", "rank-0.pt"):
        assert_same(kept[name], six[name])
    assert kept["training.pt"]["progress"]["step"] == 6
    # Without the poison it goes on from there.
    assert train(f"resume={run}")[0] == 0
    assert everything(run)["training.pt"]["progress"]["step"] == 12


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_fault_15_divergence_of_one_rank_ends_every_rank(kind: str, train_child: StartChild, tmp_path: Path) -> None:
    poisoned = functools.partial(train_child, hurt=functools.partial(poison, kind, 8, "1"))
    ranks = two_ranks(poisoned, *SMALL["lstm_lm"], *SETTINGS, "trainer.max_steps=12", f"run_dir={tmp_path / 'run'}")
    for rank in ranks:
        code, said = rank.ended()
        assert code == 5
        assert "step 8 " in refusal(said)
        assert says(kind, refusal(said))
    assert everything(tmp_path / "run")["training.pt"]["progress"]["step"] == 6
