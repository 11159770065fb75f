"""Told to stop, at the worst of moments: what was learned is kept, and the run goes on as if nothing had happened."""

import functools
import hashlib
import http.server
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dlref.training.checkpoint import Checkpoints
from tests.conftest import SIGKILL, SMALL, first, needs_posix, start
from tests.faults.processes import Child, refusal
from tests.training.test_resume import EVERY, FITTED, FURTHER, assert_same, everything, logged

pytestmark = [pytest.mark.faults, needs_posix]
Train = Callable[..., tuple[int, str]]
StartChild = Callable[..., Child]
Trained = Callable[..., Path]
STEPS = 40
SETTINGS = [
    f"trainer.max_steps={STEPS}",
    "trainer.log_every=1",
    "trainer.eval_every=15",
    "trainer.save_every=6",
    "~reports",
]
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def slow_steps(seconds: float) -> None:
    """Make a step take its time, and the last ones so long that a signal comes before the end on a busy machine too."""
    from dlref.training.trainer import Trainer

    original = Trainer.step

    def step(self: Trainer, *arguments: Any) -> Any:
        assert self.config.max_steps
        time.sleep(seconds if self.progress.step < self.config.max_steps - 5 else 3)
        return original(self, *arguments)

    Trainer.step = step  # type: ignore[method-assign]


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def last_step(run: Path) -> int:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]


def assert_goes_on(run: Path, uninterrupted: Path, train: Train) -> None:
    """Resumed it becomes the uninterrupted run, to the last bit and line."""
    assert not list((run / "checkpoints").glob(".*"))
    assert train(f"resume={run}")[0] == 0
    assert_same(everything(run), everything(uninterrupted))
    assert logged(run) == logged(uninterrupted)


@pytest.mark.parametrize("model", first("lstm_lm", of=SMALL))
def test_fault_02_a_run_that_is_terminated_goes_on_bit_for_bit(
    model: str, trained: Trained, train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    stop_and_go_on(signal.SIGTERM, model, trained, train, train_child, tmp_path)


@pytest.mark.parametrize("model", first("transformer_lm", of=SMALL))
def test_fault_03_a_run_that_is_interrupted_goes_on_bit_for_bit(
    model: str, trained: Trained, train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    stop_and_go_on(signal.SIGINT, model, trained, train, train_child, tmp_path)


def stop_and_go_on(
    number: signal.Signals, model: str, trained: Trained, train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    settings = [*EVERY[model], *SETTINGS]
    run = tmp_path / "run"
    child = train_child(*settings, f"run_dir={run}", hurt=functools.partial(slow_steps, 0.03))
    child.waits_for(lambda: lines(run) > 7)
    os.kill(child.pid, number)
    code, said = child.ended()
    assert code == CODES[number]
    assert "Traceback" not in said
    assert f"dlref train resume={run}" in said
    checkpoint = Checkpoints(run / "checkpoints").newest("step")
    assert checkpoint is not None
    assert 7 < checkpoint.step == last_step(run) < STEPS, "the step that it was in is the last one, and is kept"
    assert_goes_on(run, trained(*settings), train)


@pytest.mark.parametrize(
    ("number", "model"),
    first(
        (signal.SIGINT, "q_table"),
        of=[(number, model) for number in CODES for model in FURTHER],
    ),
)
def test_fault_02_and_03_hold_for_every_further_model(
    number: signal.Signals, model: str, trained: Trained, train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    stop_and_go_on(number, model, trained, train, train_child, tmp_path)


# What may all be in use at once.
MORE = ["trainer.accumulate=3", "trainer.precision=bf16", "trainer.ema=0.9", "trainer.clip_norm=0.5"]


@pytest.mark.slow
@pytest.mark.half
@pytest.mark.parametrize("model", first("word2vec", of=EVERY))
def test_fault_02_killed_then_terminated_with_all_that_is_kept_it_goes_on_bit_for_bit(
    model: str, trained: Trained, train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    settings = [*EVERY[model], *SETTINGS, *MORE]
    run = tmp_path / "run"
    for number, until in ((signal.SIGKILL, 10), (signal.SIGTERM, 20)):
        child = train_child(*settings, "resume=auto", f"run_dir={run}", hurt=functools.partial(slow_steps, 0.03))
        child.waits_for(lambda until=until: has_logged(run, until))  # type: ignore[misc]
        os.kill(child.pid, number)
        assert child.ended()[0] == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    assert last_step(run) < STEPS
    assert_goes_on(run, trained(*settings), train)


def has_logged(run: Path, step: int) -> bool:
    return lines(run) > 0 and last_step(run) >= step


@pytest.mark.parametrize(
    ("number", "model"),
    first(
        *((signal.SIGTERM, "ngram"), (SIGKILL, "ppmi_svd")),
        of=[(number, model) for number in (signal.SIGTERM, SIGKILL) for model in FITTED],
    ),
)
def test_fault_02_told_to_stop_while_it_is_fitted_at_once_it_is_fitted_anew(
    number: signal.Signals, model: str, trained: Trained, train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    settings = [*FITTED[model], "~reports"]
    line = [*settings, "resume=auto", f"run_dir={tmp_path / 'run'}"]
    code, said = train_child(*line, hurt=functools.partial(signal_in_fitting, number)).ended()
    assert code == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert train(*line)[0] == 0
    assert_same(everything(tmp_path / "run"), everything(trained(*settings)))
    assert logged(tmp_path / "run") == logged(trained(*settings))


def signal_in_fitting(number: signal.Signals) -> None:
    """Have this process signal itself once the counts of a text are there."""
    from dlref.objectives.kneser_ney import KneserNey
    from dlref.objectives.ppmi_svd import PPMISVD

    def fit_and_ask(fit: Callable[..., None], self: Any, batches: Any) -> None:
        fit(self, batches)
        os.kill(os.getpid(), number)

    for cls in (PPMISVD, KneserNey):
        cls.fit = functools.partialmethod(functools.partial(fit_and_ask, cls.fit))  # type: ignore[assignment]


@pytest.mark.slow
@pytest.mark.parametrize("number", first(signal.SIGINT, of=CODES))
def test_fault_02_and_03_hold_for_a_command_started_by_a_shell(
    number: signal.Signals, trained: Trained, train: Train, tmp_path: Path
) -> None:
    settings = [*SMALL["mlp"], "trainer.max_steps=1500", "trainer.log_every=30", "~reports"]
    run = tmp_path / "run"
    process = start(
        "train", "device=cpu", "threads=1", *settings, f"run_dir={run}", env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    try:
        end = time.monotonic() + 300
        while not lines(run) and time.monotonic() < end:
            time.sleep(0.002)
        process.send_signal(number)
        said = process.communicate(timeout=300)[1]
    finally:
        process.kill()
    assert process.returncode == CODES[number], said
    assert last_step(run) < 1500
    assert_goes_on(run, trained(*settings), train)


def signal_itself(moment: str) -> None:
    """Have this process ask itself to terminate, once, in the middle of something else."""
    from dlref.training import checkpoint, trainer

    asked = False

    def ask() -> None:
        nonlocal asked
        if not asked:
            asked = True
            os.kill(os.getpid(), signal.SIGTERM)

    if moment == "evaluation":
        evaluate = trainer.evaluate

        def evaluate_and_ask(*arguments: Any) -> Any:
            ask()
            return evaluate(*arguments)

        trainer.evaluate = evaluate_and_ask  # type: ignore[attr-defined]
    else:
        digest = checkpoint.file_digest

        def digest_and_ask(path: Path) -> str:
            ask()
            return digest(path)

        checkpoint.file_digest = digest_and_ask


@pytest.mark.parametrize(
    ("moment", "model"),
    first(
        *(("evaluation", "dqn"), ("saving", "mlp")),
        of=[(moment, model) for moment in ("evaluation", "saving") for model in SMALL],
    ),
)
def test_fault_02_terminated_in_evaluation_or_saving_it_goes_on_bit_for_bit(
    moment: str, model: str, trained: Trained, train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    settings = [*SMALL[model], *SETTINGS]
    run = tmp_path / "run"
    code, said = train_child(*settings, f"run_dir={run}", hurt=functools.partial(signal_itself, moment)).ended()
    assert code == 143
    assert "Traceback" not in said
    assert last_step(run) == {"evaluation": 15, "saving": 7}[moment], "an evaluation is given up, a save is finished"
    assert [line["step"] for line in logged(run) if line["split"] == "eval"] == []
    assert_goes_on(run, trained(*settings), train)


def signal_in_composing(number: signal.Signals, error: Exception | None) -> None:
    """Have a signal come while Hydra composes, and what it raises become another error, or nothing."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    original = ConfigLoaderImpl._load_configuration_impl

    def compose(*arguments: Any, **named: Any) -> Any:
        try:
            os.kill(os.getpid(), number)
        except BaseException:
            if error is not None:
                raise error from None
        return original(*arguments, **named)

    ConfigLoaderImpl._load_configuration_impl = compose  # type: ignore[method-assign]


@pytest.mark.parametrize("number", CODES)
def test_fault_02_and_03_hold_where_a_library_makes_an_error_of_the_signal(
    number: signal.Signals, train_child: StartChild
) -> None:
    hurt = functools.partial(signal_in_composing, number, AttributeError("'NoneType' object has no attribute 'flags'"))
    code, said = train_child("model=mlp", hurt=hurt).ended()
    assert code == CODES[number]
    assert said == ("dlref: interrupted\n" if number == signal.SIGINT else "")


@pytest.mark.parametrize("number", CODES)
def test_fault_02_and_03_hold_where_a_library_loses_the_signal(
    number: signal.Signals, trained: Trained, train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    settings = [*SMALL["mlp"], *SETTINGS]
    run = tmp_path / "run"
    hurt = functools.partial(signal_in_composing, number, None)
    assert train_child(*settings, f"run_dir={run}", hurt=hurt).ended()[0] == CODES[number]
    assert last_step(run) == 1
    assert_goes_on(run, trained(*settings), train)


@pytest.fixture
def slow_server() -> Iterator[http.server.ThreadingHTTPServer]:
    """Sends half of what it promises, and no more until it is closed."""
    closing = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "200000")
            self.end_headers()
            self.wfile.write(bytes(100_000))
            self.wfile.flush()
            closing.wait(60)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    closing.set()
    server.shutdown()
    server.server_close()


def download_from(port: int) -> None:
    from dlref.data.download import RemoteFile
    from dlref.data.supervised import images

    digest = hashlib.sha256(bytes(200_000)).hexdigest()
    images.FILES = [RemoteFile("mnist/train-images-idx3-ubyte.gz", digest, [f"http://127.0.0.1:{port}/images"])]


def test_fault_02_terminated_while_downloading_it_leaves_no_half_file(
    slow_server: http.server.ThreadingHTTPServer, train_child: StartChild, tmp_path: Path
) -> None:
    hurt, folder = functools.partial(download_from, slow_server.server_port), tmp_path / "data" / "mnist"
    child = train_child("model=mlp", "data=mnist", f"data.root={tmp_path / 'data'}", hurt=hurt, NO_PROXY="127.0.0.1")
    child.waits_for(lambda: any(path.stat().st_size > 50_000 for path in folder.glob("*")))
    os.kill(child.pid, signal.SIGTERM)
    code, said = child.ended()
    assert code == 143
    assert "Traceback" not in said
    assert [path.name for path in folder.glob("*") if path.suffix != ".lock"] == []


def interrupt_twice(step: int) -> None:
    """Have this process interrupt itself twice within one step, as somebody does who cannot wait."""
    from dlref.training.trainer import Trainer

    original = Trainer.step

    def interrupted(self: Trainer, *arguments: Any) -> Any:
        for _ in range(2 * (self.progress.step == step - 1)):
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)

    Trainer.step = interrupted  # type: ignore[method-assign]


@pytest.mark.parametrize("model", first("seq2seq", "dqn", of=SMALL))
def test_fault_03_interrupted_twice_it_ends_at_once_and_goes_on_from_the_checkpoint_before(
    model: str, trained: Trained, train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    settings = [*SMALL[model], *SETTINGS]
    run = tmp_path / "run"
    code, said = train_child(*settings, f"run_dir={run}", hurt=functools.partial(interrupt_twice, 15)).ended()
    assert code == 130
    assert refusal(said) == "dlref: interrupted"
    assert last_step(run) == 14
    assert everything(run)["training.pt"]["progress"]["step"] == 12
    assert_goes_on(run, trained(*settings), train)


def events(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar that TensorBoard shows: tag -> steps and values, as they come."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(run), size_guidance={"scalars": 0})
    reader.Reload()
    return {tag: [(point.step, point.value) for point in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


@pytest.mark.slow
@pytest.mark.parametrize("model", first("lstm_lm", of=EVERY))
def test_fault_25_a_run_of_three_lives_shows_each_step_once_and_in_order(
    model: str, trained: Trained, train: Train, train_child: StartChild, tmp_path: Path
) -> None:
    settings = [*EVERY[model], *SETTINGS]
    run = tmp_path / "run"
    # One that is killed has logged steps after its last checkpoint; one that is terminated has not.
    for number, until in ((signal.SIGKILL, 10), (signal.SIGTERM, 22)):
        child = train_child(*settings, "resume=auto", f"run_dir={run}", hurt=functools.partial(slow_steps, 0.03))
        child.waits_for(lambda until=until: lines(run) > until)  # type: ignore[misc]
        os.kill(child.pid, number)
        child.ended()
        # The names of event files begin with the second, and are read by name.
        time.sleep(1.01 - time.time() % 1)
    assert train(f"resume={run}")[0] == 0

    shown, expected = events(run), events(trained(*settings))
    assert shown.keys() == expected.keys()
    for tag, points in shown.items():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps)), tag
        assert points == expected[tag] or tag.endswith("_per_second"), tag
    assert [step for step, _ in shown["train/loss"]] == list(range(1, STEPS + 1))
    assert logged(run) == logged(trained(*settings))
