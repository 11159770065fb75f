"""What holds on a CPU holds on a GPU, where there is one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import SMALL
from tests.training.test_resume import assert_same, cut_short, everything, logged

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
Train = Callable[..., tuple[int, str]]
PLAYED = ("dqn", "reinforce", "actor_critic")
QUIET = ["trainer.monitor=null", "reports=null", "trainer.log_every=2", "trainer.eval_every=4", "trainer.save_every=4"]


def settled(model: str) -> list[str]:
    """With nothing that is dropped: each device draws that from a stream of its own."""
    return [*(s if "dropout" not in s else s.partition("=")[0] + "=0" for s in SMALL[model]), *QUIET]


@pytest.mark.parametrize(
    "model", [m for m in SMALL if m not in (*PLAYED, "word2vec")]
)  # which draws its negatives there
def test_a_gpu_learns_what_a_cpu_learns(model: str, train: Train, tmp_path: Path) -> None:
    settings = [*settled(model), "trainer.precision=float32", "trainer.max_steps=8"]
    found = []
    for device in ("cpu", "cuda"):
        run = tmp_path / str(len(found))
        assert train(*settings, f"device={device}", f"run_dir={run}")[0] == 0
        found.append([line["loss"] for line in logged(run) if line["split"] == "eval"])
    assert found[0] == pytest.approx(found[1], rel=2e-3)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("model", SMALL)
def test_resumed_on_a_gpu_equals_uninterrupted(model: str, precision: str, train: Train, tmp_path: Path) -> None:
    settings = [*SMALL[model], *QUIET, f"trainer.precision={precision}", "trainer.max_steps=12", "device=cuda"]
    assert train(*settings, f"run_dir={tmp_path / 'whole'}")[0] == 0
    for cut in (1, 7):
        cut_short(train, settings, tmp_path / f"cut-{cut}", cut)
        assert train(f"resume={tmp_path / f'cut-{cut}'}", "device=cuda")[0] == 0
        assert_same(everything(tmp_path / f"cut-{cut}"), everything(tmp_path / "whole"))
        assert logged(tmp_path / f"cut-{cut}") == logged(tmp_path / "whole")


@pytest.mark.parametrize("model", [m for m in SMALL if m not in PLAYED])
def test_compiled_in_half_precision_on_a_gpu(model: str, train: Train, tmp_path: Path) -> None:
    found = []
    for settings in (["trainer.precision=float32"], ["trainer.precision=bf16", "trainer.compile=true"]):
        run = tmp_path / str(len(found))
        assert train(*settled(model), *settings, "trainer.max_steps=8", "device=cuda", f"run_dir={run}")[0] == 0
        found.append([line["loss"] for line in logged(run) if line["split"] == "eval"])
    assert found[1] == pytest.approx(found[0], rel=0.05)


def test_a_run_goes_on_on_another_device(train: Train, tmp_path: Path) -> None:
    settings = [*SMALL["lstm_lm"], *QUIET]
    assert train(*settings, "trainer.max_steps=4", "device=cuda", f"run_dir={tmp_path}")[0] == 0
    code, said = train(f"resume={tmp_path}", "trainer.max_steps=8", "device=cpu")
    assert code == 0
    assert "gpu was" in said
