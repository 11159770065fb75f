"""Devices: which one is chosen, its random numbers, and errors that are the machine's."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlref.errors import ConfigError
from dlref.objectives.supervised import Classification
from dlref.training import devices, memory, trainer
from dlref.training.devices import choose_device, device_name, forked_random, make_current
from tests.conftest import ROOT, SMALL, accelerators

Train = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
@pytest.mark.parametrize("name", ["{}", "{}:1"])
def test_whatever_torch_knows_can_be_chosen(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerators(monkeypatch, kind, 2)
    current: list[int] = []
    monkeypatch.setattr(torch.accelerator, "set_device_index", current.append)
    index = int(":" in name)
    device = choose_device(name.format(kind))
    assert device == torch.device(kind, index)
    assert not current, "to choose changes nothing"
    make_current(device)
    make_current(choose_device("cpu"))
    assert current == [index]


def test_of_several_ranks_each_takes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerators(monkeypatch, "cuda", 2)
    assert [choose_device("auto", rank) for rank in (0, 1)] == [torch.device("cuda", rank) for rank in (0, 1)]


@pytest.mark.parametrize(("kind", "chosen"), [(None, "cpu"), ("cuda", "cuda:0"), ("mps", "cpu"), ("xpu", "cpu")])
def test_auto_is_cuda_else_the_cpu(kind: str | None, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerators(monkeypatch, kind)
    assert choose_device("auto") == torch.device(chosen)


@pytest.mark.parametrize(("kind", "device", "said"), [("mps", "auto", 1), ("mps", "cpu", 0), (None, "auto", 0)])
def test_a_run_by_auto_names_the_accelerator_that_it_leaves(
    kind: str | None, device: str, said: int, train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    accelerators(monkeypatch, kind)
    heard = train(*SMALL["mlp"], "trainer.max_steps=1", f"device={device}", f"run_dir={tmp_path}")[1]
    assert heard.count("mps:0 is available but not used; set device=mps to use it") == said


@pytest.mark.parametrize("name", ["mps", "xpu", "cuda", "mps:0"])
def test_an_accelerator_that_is_not_there_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerators(monkeypatch, None)
    with pytest.raises(ConfigError, match=f"device={name} is not there; this machine has cpu: "):
        choose_device(name)


def test_without_a_gpu_nothing_of_torch_cuda_is_called(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By dlref, in training, evaluation, resuming and doctor; torch's own modules still call it."""
    from dlref.cli.main import main

    class Guarded:
        def __getattr__(self, name: str) -> Any:
            asking = Path(sys._getframe(1).f_code.co_filename)
            assert (ROOT / "dlref") not in asking.parents, f"{asking} asked for torch.cuda.{name}"
            return getattr(cuda, name)

    cuda = torch.cuda
    monkeypatch.setattr(torch, "cuda", Guarded())
    assert train(*SMALL["mlp"], "trainer.max_steps=2", f"run_dir={tmp_path}")[0] == 0
    assert train(f"resume={tmp_path}", "trainer.max_steps=3")[0] == 0
    assert main(["evaluate", str(tmp_path)]) == 0
    assert main(["doctor"]) in (0, 1)


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
def test_random_numbers_of_any_device_go_on_where_they_were(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.mps alone has one state for all and takes no device."""
    state = [torch.zeros(4)]

    def get(device: Any = None) -> Tensor:
        assert (device is None) == (kind == "mps")
        return state[0].clone()

    def put(value: Tensor, device: Any = None) -> None:
        assert (device is None) == (kind == "mps")
        state[0] = value

    module = types.SimpleNamespace(get_rng_state=get, set_rng_state=put)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    device = torch.device(kind, 0)
    before = torch.get_rng_state()
    with forked_random(device):
        state[0] += 1
        torch.rand(1)
    assert not state[0].any()
    assert torch.equal(torch.get_rng_state(), before)
    assert device_name(device) == kind
    assert device_name(torch.device("cpu")) is None


def test_all_ranks_take_the_one_mps_device(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerators(monkeypatch, "mps")
    assert choose_device("mps", local_rank=1) == torch.device("mps", 0)


SAID = [
    "could not create a primitive descriptor for the LSTM forward propagation primitive. Run workload with …",
    "\"addmm_impl_cpu_\" not implemented for 'Half'",
    "CUDA error: no kernel image is available for execution on the device",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    "CUDA driver version is insufficient for CUDA runtime version",
    "MPS backend out of date: operator aten::x is not supported",
]


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("step", [1, 3])
def test_an_error_of_the_machine_is_not_blamed_on_the_parts(
    said: str, step: int, train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps = []

    def forward(self: Any, batch: Any) -> Any:
        steps.append(1)
        if len(steps) == step:
            raise RuntimeError(said)
        return before(self, batch)

    before = Classification.forward
    monkeypatch.setattr(Classification, "forward", forward)
    code, heard = train(*SMALL["mlp"], "trainer.max_steps=5", f"run_dir={tmp_path}")
    assert code == 6
    last = heard.splitlines()[-1]
    assert last.startswith(f"dlref: this machine cannot compute that ({said[:40]}")
    assert "trainer.precision=float32" in last
    assert "go together" not in heard


def test_an_error_that_may_be_the_machines_says_how_to_find_out(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def forward(self: Any, batch: Any) -> Any:
        raise RuntimeError("something that nobody has heard of")

    monkeypatch.setattr(Classification, "forward", forward)
    for chosen, doubt in (("bf16", True), ("auto", True), ("float32", False)):
        run = f"run_dir={tmp_path / chosen}"
        monkeypatch.setattr(trainer, "resolve", lambda asked, device, net: asked.replace("auto", "bf16"))
        code, heard = train(*SMALL["mlp"], f"trainer.precision={chosen}", "trainer.max_steps=5", run)
        assert code == 2
        assert "do not go together" in heard
        assert ("try trainer.precision=float32 device=cpu: if that works" in heard) == doubt


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: an illegal memory access",
        "no\nnot implemented for 'Half'",
    ],
)
def test_a_mistake_of_a_plug_in_is_not_the_machines(
    said: str, train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its author gets the traceback."""
    plugin = tmp_path / f"mine_{len(said)}.py"
    plugin.write_text("", encoding="utf-8")

    def forward(self: Any, batch: Any) -> Any:
        raise RuntimeError(said)

    monkeypatch.setattr(Classification, "forward", forward)
    with pytest.raises(RuntimeError, match=said.partition("\n")[0]):
        train(*SMALL["mlp"], "trainer.max_steps=5", f"plugins={plugin}", f"run_dir={tmp_path / 'run'}")


def test_devices_are_named_as_torch_names_them() -> None:
    """Each of them makes a torch.device; torch's list is not public."""
    for kind in devices.ACCELERATORS:
        assert torch.device(kind).type == kind


@pytest.mark.parametrize("kind", ["mps", "cpu"])
def test_a_device_without_float64_gets_none(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even rotary positions, which are kept in float64; float64 asked for is refused."""
    from dlref import build
    from dlref.cli.compose import compose
    from dlref.objectives import Objective

    def to(self: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
        return moved(self, dtype=dtype) if dtype else self

    moved = nn.Module.to
    monkeypatch.setattr(Objective, "to", to)
    monkeypatch.setattr(memory, "require_memory", lambda build, device: None)
    config = compose([*SMALL["transformer_lm"], "~reports"])
    objective = build.build(config, torch.device(kind)).objective
    kinds = {value.dtype for value in [*objective.parameters(), *objective.buffers()] if value.is_floating_point()}
    assert (torch.float64 in kinds) == (kind == "cpu")
    config["trainer"]["precision"] = "float64"
    if kind == "mps":
        with pytest.raises(ConfigError, match=r"device=mps has no float64; set trainer\.precision=float32"):
            build.build(config, torch.device(kind))


def test_ranks_that_have_no_way_to_communicate_are_refused() -> None:
    from dlref.training import distributed

    with pytest.raises(ConfigError, match="2 ranks cannot share device=mps"), distributed.group(2, torch.device("mps")):
        pass


def test_ranks_that_would_compute_in_different_formats_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them would scale its loss by 65,536, and another not."""
    from dlref.training import distributed

    assert distributed.agreed("precision", "bf16") == "bf16"
    monkeypatch.setattr(distributed, "from_first", lambda value: "fp16")
    with pytest.raises(ConfigError, match="precision: rank 0 has fp16, this one bf16; set trainer"):
        distributed.agreed("precision", "bf16")
