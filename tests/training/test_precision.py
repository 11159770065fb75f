"""Number formats: what `auto` picks on which machine, layers without a kernel, and the loss scale of float16."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dlref import hardware, operators
from dlref.hardware import instruction_set
from dlref.models.mlp import MLP
from dlref.models.recurrent_layers import RecurrentLayers
from dlref.optimizers.muon import orthogonalized
from dlref.training import precision, trainer
from dlref.training.checkpoint import Checkpoints
from dlref.training.precision import LossScale, autocast, resolve, run_in_float32
from tests.conftest import SMALL, command, first

CPU = torch.device("cpu")
FLAGS = ("_is_avx512_supported", "_is_avx512_bf16_supported", "_is_amx_tile_supported")
Train = Callable[..., tuple[int, str]]


def machine(monkeypatch: pytest.MonkeyPatch, *flags: str, limit: str | None = None) -> None:
    """A CPU with these flags of torch.cpu, and an ATen built for it."""
    for flag in FLAGS:
        monkeypatch.setattr(torch.cpu, flag, lambda has=flag in flags: has, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512" if flags else "AVX2")
    for name in hardware.LIMITS:
        monkeypatch.delenv(name, raising=False)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)


@pytest.mark.parametrize(
    ("flags", "limit", "found", "automatic"),
    [
        (FLAGS, None, "AMX", "bf16"),
        (FLAGS[:2], None, "AVX-512 BF16", "bf16"),
        (FLAGS[:1], None, "AVX-512", "float32"),
        ((), None, "AVX2", "float32"),
        (FLAGS, "DEFAULT", "AMX", "bf16"),
        (FLAGS, "avx512_core_bf16", "AVX-512 BF16", "bf16"),
        (FLAGS, "AVX512_CORE", "AVX-512", "float32"),
        (FLAGS, "AVX2", "AVX2", "float32"),
        ((), "AVX512_CORE_AMX", "AVX2", "float32"),
    ],
)
def test_auto_is_bf16_where_the_cpu_multiplies_it_natively(
    flags: tuple[str, ...], limit: str | None, found: str, automatic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, *flags, limit=limit)
    assert instruction_set() == found
    assert resolve("auto", CPU) == automatic


@pytest.mark.parametrize(
    ("capability", "automatic"),
    [((6, 1), "float32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")],
)
def test_auto_on_cuda_follows_the_compute_capability(
    capability: tuple[int, int], automatic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve("auto", torch.device("cuda", 0)) == automatic


def test_other_accelerators_are_not_asked_about_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "cuda")
    assert resolve("auto", torch.device("mps", 0)) == "float32"
    assert resolve("auto", CPU) in ("float32", "bf16")


@pytest.mark.parametrize(("widths", "chosen"), [([50], "float32"), ([1000], "bf16")])
def test_half_precision_is_for_large_products(widths: list[int], chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, *FLAGS)
    net = MLP(784, 10, widths)
    assert resolve("auto", CPU, net) == chosen
    assert resolve("bf16", CPU, net) == "bf16"


class NoHalf(TorchDispatchMode):
    """Fails at any operation that reads or makes a half-precision tensor."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for value in [*args, *(made if isinstance(made, list | tuple) else [made])]:
            for one in value if isinstance(value, list | tuple) else [value]:
                assert not (isinstance(one, Tensor) and one.dtype in precision.HALF.values()), function
        return made


@pytest.mark.parametrize("model", first("mlp", "lstm_lm", "transformer_lm", of=SMALL))
def test_without_the_hardware_nothing_computes_in_half_precision_by_itself(
    model: str, train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Training, evaluation and reports; networks as large as `auto` asks for, so that it is the CPU that decides."""
    machine(monkeypatch)
    monkeypatch.setattr(trainer, "resolve", lambda chosen, device, net: resolve(chosen, device))
    wide = ["trainer.precision=auto", "trainer.max_steps=2", "trainer.monitor=null", f"run_dir={tmp_path}"]
    with NoHalf():
        assert train(*SMALL[model], *wide)[0] == 0


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without recurrent kernels of half precision."""
    monkeypatch.setattr(operators, "has_kernel", lambda call, device, dtype: False)


@pytest.mark.half
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.usefixtures("without_kernels")
def test_a_layer_without_a_kernel_is_the_layer_in_float32(cell: Any, own: bool) -> None:
    """dlref's own and torch's, forward and backward; products next to it stay in bfloat16."""
    layers = RecurrentLayers(cell, [6, 5], [0.0, 0.0])
    layer: Any = layers.layers[0]
    run_in_float32("bf16", CPU, layers)
    run = (lambda x: layers(x, layers.initial_state(2))[0]) if own else (lambda x: layer(x)[0])
    half = torch.randn(2, 3, 6).bfloat16()
    outputs, gradients = [], []
    for context, x in ((autocast("bf16", CPU), half), (autocast("float32", CPU), half.float())):
        with context():
            outputs.append(run(x))
        gradients.append(torch.autograd.grad(outputs[-1].square().sum(), list(layer.parameters())))
    assert outputs[0].dtype == torch.float32
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
    with autocast("bf16", CPU)():
        assert nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.usefixtures("without_kernels")
def test_a_layer_without_a_kernel_is_called_in_any_way() -> None:
    """With a state by name, with a packed sequence, and as the copy that an average of weights makes."""
    layer = nn.LSTM(6, 5, batch_first=True)
    x, state = torch.randn(2, 3, 6), (torch.randn(1, 2, 5), torch.randn(1, 2, 5))
    packed = nn.utils.rnn.pack_padded_sequence(x.bfloat16(), torch.tensor([3, 2]), batch_first=True)
    by_name, of_packed = layer(x.bfloat16().float(), state)[0], layer(packed.float())[0].data
    run_in_float32("bf16", CPU, layer)
    for one in (layer, copy.deepcopy(layer)):
        with autocast("bf16", CPU)():
            assert torch.equal(one(x.bfloat16(), hx=state)[0], by_name)
            assert torch.equal(one(packed)[0].data, of_packed)


@pytest.mark.usefixtures("without_kernels")
def test_the_start_of_a_run_says_what_this_machine_computes_otherwise(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch)
    code, said = train(*SMALL["lstm_lm"], "trainer.precision=bf16", "trainer.max_steps=1", f"run_dir={tmp_path / 'a'}")
    assert code == 0
    assert said.count("LSTM layers run in float32, because this CPU has no bf16 kernel for them") == 1
    assert "bf16 is emulated on this CPU (AVX2)" in said
    said = train(*SMALL["transformer_lm"], "trainer.max_steps=1", f"run_dir={tmp_path / 'b'}")[1]
    assert "Muon orthogonalizes in float32" in said
    assert "emulated" not in said
    assert "LSTM" not in said


@pytest.mark.half
@pytest.mark.parametrize("model", first("lstm_lm", "seq2seq", "transformer_lm", "mlp", of=SMALL))
@pytest.mark.parametrize("chosen", ["bf16", "fp16"])
def test_every_model_trains_in_half_precision_on_any_cpu(model: str, chosen: str, train: Train, tmp_path: Path) -> None:
    settings = [*SMALL[model], f"trainer.precision={chosen}", "trainer.max_steps=3", "trainer.monitor=null"]
    assert train(*settings, "~reports", f"run_dir={tmp_path}")[0] == 0
    assert Checkpoints(tmp_path / "checkpoints").newest("step").step == 3  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.half
@pytest.mark.usefixtures("without_kernels")
def test_a_compiled_run_computes_the_same_layers_in_float32(train: Train, tmp_path: Path) -> None:
    """Without dropout, whose random numbers a compiler may draw in another order; with it, it runs."""
    settings = [*SMALL["lstm_lm"], "trainer.precision=bf16", "trainer.max_steps=3", "trainer.monitor=null", "~reports"]
    for compiled, dropout in (("true", 0.4), ("true", 0.0), ("false", 0.0)):
        run = f"run_dir={tmp_path / f'{compiled}-{dropout}'}"
        code, said = train(*settings, f"trainer.compile={compiled}", f"network.dropout={dropout}", run)
        assert code == 0, said
    one, other = (trained(tmp_path / run)["weights.pt"] for run in ("true-0.0", "false-0.0"))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=2e-3)


@pytest.mark.slow
@pytest.mark.half
@pytest.mark.parametrize("chosen", ["bf16", "fp16"])
def test_an_lstm_trains_on_a_cpu_that_has_avx2_alone(chosen: str, tmp_path: Path) -> None:
    """In a process of its own, as oneDNN asks for its limit once; `-m half` is run with and without the limit too."""
    held = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    typed = [*SMALL["lstm_lm"], f"trainer.precision={chosen}", "trainer.max_steps=2", f"run_dir={tmp_path}"]
    done = command("train", *typed, env=os.environ | held)
    assert done.returncode == 0, done.stderr
    assert f"LSTM layers run in float32, because this CPU has no {chosen} kernel for them" in done.stderr


@pytest.mark.parametrize("native", [True, False])
def test_muon_iterates_in_bfloat16_where_that_is_native_and_else_in_float32(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, *FLAGS[: 3 * native])
    matrices = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    made, exact = orthogonalized(matrices), orthogonalized(matrices.double()).float()
    assert made.dtype == (torch.bfloat16 if native else torch.float32)
    torch.testing.assert_close(made.float(), exact, rtol=0, atol=0.05 if native else 1e-5)


def test_the_loss_scale_is_that_of_torch() -> None:
    """torch.amp.GradScaler, over updates of which some are infinite."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = LossScale(), torch.amp.GradScaler("cpu", growth_interval=5)
    ours.interval = 5  # type: ignore[misc]
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for infinite in (torch.rand(200, generator=generator) < 0.1).tolist():
        assert ours.value == theirs.get_scale()
        theirs.scale(weight.sum()).backward()
        if infinite:
            weight.grad.fill_(torch.inf)  # type: ignore[union-attr]
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        assert ours.overflowed(0.0, torch.inf if infinite else 1.0) == infinite
    assert ours.value != LossScale().value


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A loss scale also in other formats, of the value in this list."""
    value = [2.0**16]
    original = trainer.Trainer.__init__

    def scaled_init(self: Any, *parts: Any) -> None:
        original(self, *parts)
        self.loss_scale = LossScale(value[0]) if value[0] else None

    monkeypatch.setattr(trainer.Trainer, "__init__", scaled_init)
    return value


def trained(run: Path) -> dict[str, Any]:
    """Weights and training state of the last checkpoint."""
    last = Checkpoints(run / "checkpoints").newest("step")
    assert last is not None
    return {name: last.read(name) for name in ("weights.pt", "training.pt")}


@pytest.mark.parametrize("model", first("mlp", "lstm_lm", of=["mlp", "lstm_lm", "cnn", "transformer_lm"]))
def test_a_loss_scale_changes_no_bit_of_float32(model: str, scaled: list[float], train: Train, tmp_path: Path) -> None:
    """A power of 2 rounds nothing: what is multiplied into the loss is divided out of the gradient."""
    settings = [*SMALL[model], "trainer.precision=float32", "trainer.max_steps=4", "trainer.accumulate=2", "~reports"]
    for run, scaled[0] in (("with", 2.0**16), ("without", 0.0)):
        assert train(*settings, "trainer.clip_norm=0.5", f"run_dir={tmp_path / run}")[0] == 0
    a, b = (trained(tmp_path / run)["weights.pt"] for run in ("with", "without"))
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_an_infinite_gradient_is_skipped_and_halves_the_scale(
    scaled: list[float], train: Train, tmp_path: Path
) -> None:
    """Weights, moments and averages are as before; the step and its batch are used up."""
    scaled[0] = 2.0**100  # by which the squares of a norm are beyond float32
    settings = [*SMALL["mlp"], "trainer.precision=float32", "trainer.max_steps=3", "trainer.log_every=1", "~reports"]
    code, said = train(*settings, "trainer.ema=0.9", "trainer.monitor=null", f"run_dir={tmp_path}")
    assert code == 0, said
    state = trained(tmp_path)["training.pt"]
    assert state["progress"]["step"] == 3
    assert state["loss_scale"] == {"value": 2.0**97, "finite": 0}
    assert state["averaged"] == 0
    assert not state["optimizer"]["state"]


def test_a_gradient_that_no_scale_makes_finite_ends_the_run(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trainer, "LossScale", lambda: LossScale(2.0))
    monkeypatch.setattr(trainer.gradient_norm, "norm", lambda gradient: float("nan"))
    code, said = train(*SMALL["mlp"], "trainer.precision=fp16", "trainer.max_steps=9", f"run_dir={tmp_path}")
    assert code == 5
    assert "step 2 is not finite" in said


@pytest.mark.half
@pytest.mark.faults
@pytest.mark.parametrize("model", first("mlp", of=SMALL))
def test_fault_04_a_run_in_float16_resumes_with_its_loss_scale(
    model: str, train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Cut after updates that were skipped and before the scale has settled."""
    monkeypatch.setattr(LossScale, "interval", 3)
    settings = [*SMALL[model], "trainer.precision=fp16", "schedule=constant", "trainer.monitor=null", "~reports"]
    assert train(*settings, "trainer.max_steps=8", f"run_dir={tmp_path / 'whole'}")[0] == 0
    for cut in (2, 5):
        run = tmp_path / f"cut {cut}"
        assert train(*settings, f"trainer.max_steps={cut}", f"run_dir={run}")[0] == 0
        assert train(f"resume={run}", "trainer.max_steps=8")[0] == 0
        whole, resumed = trained(tmp_path / "whole"), trained(run)
        assert whole["training.pt"]["loss_scale"] == resumed["training.pt"]["loss_scale"]
        assert all(torch.equal(resumed["weights.pt"][name], value) for name, value in whole["weights.pt"].items())
    assert whole["training.pt"]["loss_scale"]["finite"] < 8  # it was changed
