"""The log outlives what it is given to write and what it writes with."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector import ProjectorConfig
from torch.utils.tensorboard import SummaryWriter

from dlref.reports import Embedding
from dlref.training.log import Log
from tests.conftest import SMALL

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("numbers", [torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf]), torch.zeros(0)])
def test_fault_24_a_histogram_of_what_has_none_is_one_warning(
    numbers: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log(tmp_path, quiet=True)
    with caplog.at_level(logging.WARNING, "dlref"):
        for step in (1, 2):
            log.histogram("eval/weights", numbers, step)
        log.histogram("eval/weights", torch.arange(5.0), 3)
        log.figures("eval", 3, 0.0, {"loss": 1.0})
    log.close()
    assert len(caplog.records) == 1
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0, "histograms": 0}).Reload()
    assert [event.step for event in events.Histograms("eval/weights")] == [3]
    assert [event.step for event in events.Scalars("eval/loss")] == [3]


def test_fault_24_a_writer_that_raises_is_one_warning_and_the_run_goes_on(
    train: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the board is broken")

    monkeypatch.setattr(SummaryWriter, "add_scalar", broken)
    code, said = train(*SMALL["mlp"], "trainer.max_steps=6", "trainer.log_every=1", f"run_dir={tmp_path / 'run'}")
    assert code == 0
    assert said.count("the board is broken") == 1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) >= 6


def test_histograms_on_request_show_activations_weights_and_gradients(
    train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    wanted = "reports.histograms._target_=dlref.reports.pictures.Histograms"
    code, said = train(*SMALL["cnn"], wanted, "trainer.max_steps=4", "trainer.eval_every=2", f"run_dir={run}")
    assert code == 0, said
    events = EventAccumulator(str(run), size_guidance={"histograms": 0}).Reload()
    tags = events.Tags()["histograms"]
    for kind in ("activations", "weights", "gradients"):
        assert any(tag.startswith(f"eval/{kind}/") for tag in tags), tags
    weights = next(tag for tag in tags if tag.startswith("eval/weights/"))
    assert [event.step for event in events.Histograms(weights)] == [0, 2, 4]


def test_the_projector_shows_every_evaluation_once_and_its_labels_in_their_lines(tmp_path: Path) -> None:
    labels = ["a", "new york", "\n", "naïve"]
    for tag, step in (("eval/words", 5), ("test/words", 5), ("eval/words", 9), ("test/words", 5)):
        log = Log(tmp_path, quiet=True)  # as of another process
        log.embedding(tag, Embedding(torch.full((4, 2), step / 3), labels), step)
        log.close()
    listed = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig()).embeddings
    assert [one.tensor_name for one in listed] == ["eval/words:5", "eval/words:9", "test/words:5"]
    for one, step in zip(listed, (5, 9, 5), strict=True):
        rows = (tmp_path / one.tensor_path).read_text().splitlines()
        assert torch.tensor([[float(n) for n in row.split("\t")] for row in rows]).allclose(
            torch.full((4, 2), step / 3)
        )
        assert (tmp_path / one.metadata_path).read_text(encoding="utf-8").splitlines() == [
            "a",
            "new_york",
            "␣",
            "naïve",
        ]
    (tmp_path / "projector_config.pbtxt").write_bytes(b"\xff{")
    log = Log(tmp_path, quiet=True)
    log.embedding("test/words", Embedding(torch.zeros(1, 2), ["a"]), 1)
    log.close()
    assert "test/words:1" in (tmp_path / "projector_config.pbtxt").read_text()
