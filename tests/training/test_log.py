"""The log outlives what it is given to write and what it writes with."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector import ProjectorConfig
from torch.utils.tensorboard import SummaryWriter

from dlref.cli.main import main
from dlref.reports import LabeledVectors
from dlref.training.log import Log
from tests.conftest import SMALL, needs_posix

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
        log.metrics("eval", 3, 0.0, {"loss": 1.0})
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
    wanted = "reports.histograms._target_=dlref.reports.classifier_plots.Histograms"
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
        log.embedding(tag, LabeledVectors(torch.full((4, 2), step / 3), labels), step)
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
    log.embedding("test/words", LabeledVectors(torch.zeros(1, 2), ["a"]), 1)
    log.close()
    assert "test/words:1" in (tmp_path / "projector_config.pbtxt").read_text()


@needs_posix
@pytest.mark.parametrize("name", [b"results", b"r\xe9sultats"])
def test_a_name_of_bytes_that_are_no_text_is_used_and_escaped_where_it_is_written(
    name: bytes, train: Callable[..., tuple[int, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a disk with names in Latin-1 has them: Python reads \\xe9 as the surrogate \\udce9."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    rows = "".join(f"{i % 7},{i % 5},{i % 3}\n" for i in range(60))
    file, run = folder / os.fsdecode(b"donn\xe9es.csv"), tmp_path / os.fsdecode(name)
    file.write_text("a,b,c\n" + rows)
    typed = f"data.file={file}"
    line = ["model=mlp", "data=table", typed, "data.targets=[c]", "data.task=regression", "objective=regression"]
    line += ["network.widths=[3]", "trainer.monitor=null"]
    code, said = train(*line, "trainer.max_steps=2", f"run_dir={run}")
    assert code == 0, said
    assert ("TensorBoard cannot be written (ValueError: it takes no folder" in said) == (b"\xe9" in name)
    assert json.loads((run / "run.json").read_text())["finished"] is True
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["file"] == str(file)
    events = [path for path in run.iterdir() if "tfevents" in path.name]
    written = b"".join(path.read_bytes() for path in events)
    assert (b"\\udce9" in written) == (name == b"results"), "escaped among the hyper-parameters"
    code, said = train(f"resume={run}", typed, "trainer.max_steps=4")
    assert code == 0, said
    assert main(["evaluate", str(run), typed]) == 0
    assert main(["predict", str(run), str(file)]) == 0
    assert main(["compare", str(run)]) == 0
    assert main(["compare", str(run), str(run), "--plot", str(folder / "plot.png")]) == 0
    assert "c" in capsys.readouterr().out


def test_a_metric_named_step_does_not_replace_the_step(tmp_path: Path) -> None:
    log = Log(tmp_path, quiet=True)
    log.metrics("eval", 3, 1.5, {"loss": 1.0, "step": 9.0, "mine/split": 2.0})
    log.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line == {"step": 3, "seconds": 1.5, "split": "eval", "loss": 1.0}
