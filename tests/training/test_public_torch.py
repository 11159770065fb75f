"""Training needs no private operator of torch: without each of them it takes the same steps by the public API."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import dlref
from dlref import operators
from dlref.cli.main import main
from dlref.models.layers import Dropout
from dlref.models.recurrent_layers import RecurrentLayers
from dlref.optimizers import adam, muon
from dlref.training import distributed, gradient_norm
from dlref.training.checkpoint import find
from tests.conftest import SMALL

FOREACH = ("_foreach_norm", "_foreach_mul_", "_foreach_add_", "_foreach_lerp_", "_foreach_lerp")
FUSED = ("_fused_adam_", "_fused_adamw_")
OF_TENSORS = ("_indices", "_coalesced_")
Remove = Callable[..., None]


@pytest.fixture
def remove(monkeypatch: pytest.MonkeyPatch) -> Remove:
    """Takes names away from the torch that dlref sees; torch keeps them for itself, as its optimizers need them."""

    class Without:
        def __init__(self, names: tuple[str, ...]) -> None:
            self.names = names

        def __getattr__(self, name: str) -> Any:
            if name in self.names:
                raise AttributeError(name)
            return getattr(torch, name)

    def absent(tensor: Tensor) -> None:
        raise AttributeError

    def run(*names: str) -> None:
        for name in OF_TENSORS:
            if name in names:
                monkeypatch.setattr(torch.Tensor, name, property(absent))
        monkeypatch.setattr(operators, "torch", Without(names))

    return run


def weights_after(settings: list[str], folder: Path) -> dict[str, Tensor]:
    line = [*settings, "trainer.max_steps=4", "trainer.clip_norm=0.5", "device=cpu", "threads=1", "~reports"]
    assert main(["train", *line, f"run_dir={folder}"]) == 0
    return find(folder / "checkpoints" / "last").read("weights.pt")


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (SMALL["mlp"], (*FOREACH, *FUSED)),
        ([*SMALL["word2vec"], "optimizer=sgd_rows"], (*FOREACH, *OF_TENSORS)),
        ([*SMALL["dqn"], "objective.tau=0.1"], (*FOREACH, *FUSED)),
        ([*SMALL["transformer_lm"], "optimizer=muon"], (*FOREACH, *FUSED)),
    ],
    ids=["mlp", "word2vec", "dqn", "transformer_lm"],
)
def test_a_training_without_them_gives_the_same_bits(
    settings: list[str], names: tuple[str, ...], remove: Remove, tmp_path: Path
) -> None:
    expected = weights_after(settings, tmp_path / "with")
    remove(*names)
    found = weights_after(settings, tmp_path / "without")
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_a_training_without_the_softmax_operator_gives_the_same_numbers(remove: Remove, tmp_path: Path) -> None:
    settings = [*SMALL["transformer_lm"], "optimizer=muon", "trainer.precision=float64"]
    expected = weights_after(settings, tmp_path / "with")
    remove("_softmax_backward_data")
    torch.testing.assert_close(weights_after(settings, tmp_path / "without"), expected)


def three() -> list[Tensor]:
    """Tensors of several shapes, new each time."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw) for shape in [(3, 4), (5,), (2, 3, 7)]]


def in_place(change: Callable[[list[Tensor]], None]) -> list[Tensor]:
    tensors = three()
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("_foreach_norm", lambda: operators.norms(three())),
        ("_foreach_mul_", lambda: in_place(lambda t: operators.multiply_(t, 0.3))),
        ("_foreach_add_", lambda: in_place(lambda t: operators.add_(t, [x + 1 for x in t], -0.1))),
        ("_foreach_lerp_", lambda: in_place(lambda t: operators.interpolate_(t, [x + 1 for x in t], 0.3))),
        ("_foreach_lerp", lambda: operators.interpolated(three(), [x + 1 for x in three()], 0.7)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lists_of_tensors_are_changed_to_the_same_bits(name: str, use: Any, remove: Remove) -> None:
    expected = use()
    remove(name)
    for mine, theirs in zip(use(), expected, strict=True):
        assert torch.equal(mine, theirs)


def adam_steps(kind: Any) -> tuple[Any, list[Tensor]]:
    """An Adam after five steps of two groups, and its parameters and state."""
    parameters = [nn.Parameter(tensor) for tensor in three()]
    optimizer = kind([{"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.1}], fused=True)
    for step in range(5):
        for number, p in enumerate(parameters):
            p.grad = p.detach().cos() * (step - number)
        optimizer.step()
    state = optimizer.state_dict()["state"]
    return optimizer, [p.detach() for p in parameters] + [
        value for _, each in sorted(state.items()) for value in each.values()
    ]


@pytest.mark.parametrize(("kind", "name"), [(adam.Adam, "_fused_adam_"), (adam.AdamW, "_fused_adamw_")])
def test_adam_without_its_operator_takes_the_step_of_torch(kind: Any, name: str, remove: Remove) -> None:
    optimizer, expected = adam_steps(kind)
    assert optimizer.cache is not None
    remove(name)
    optimizer, found = adam_steps(kind)
    assert optimizer.cache is None
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


def test_adam_takes_the_same_steps_within_the_wrapper_for_torchs_profiler(monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = adam_steps(adam.Adam)
    monkeypatch.delattr(adam.CachedFusedStep.step, "hooked")
    wrapped = type("Wrapped", (adam.Adam,), {})  # torch puts its wrapper into the class
    _, found = adam_steps(wrapped)
    assert "step" in vars(wrapped)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


def test_muon_needs_no_more_than_torchs_base_class() -> None:
    assert muon.MatrixMuon.__bases__ == (torch.optim.Optimizer,)
    with pytest.raises(ValueError, match=r"momentum -1 and weight_decay 0\.0; each must be 0 or more"):
        muon.MatrixMuon(three()[:1], lr=0.1, momentum=-1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_softmax_operator_is_its_formula(dtype: torch.dtype, remove: Remove) -> None:
    """Also in a row that a mask leaves one entry of, up to the rounding of the type."""
    scores = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores[0, 0, 0, 1:] = -torch.inf
    probabilities, grad_out = scores.softmax(3).to(dtype), scores.flip(0).clamp(min=-2).to(dtype)
    expected = operators.softmax_backward(grad_out, probabilities, 3)
    remove("_softmax_backward_data")
    found = operators.softmax_backward(grad_out, probabilities, 3)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("rows", [[0, 2, 5], [5, 0, 2], [2, 0, 2]], ids=["in order", "unordered", "repeated"])
@pytest.mark.parametrize("name", OF_TENSORS)
def test_sparse_gradients_have_the_same_rows(rows: list[int], name: str, remove: Remove) -> None:
    def read() -> list[Tensor]:
        p = nn.Parameter(torch.zeros(6, 4))
        p.grad = torch.sparse_coo_tensor(torch.tensor([rows]), three()[0], p.shape, check_invariants=True)
        return [*gradient_norm.values([p]), p.grad.indices()]

    expected = read()
    remove(name)
    for mine, theirs in zip(read(), expected, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("since_2_13", [True, False])
def test_ranks_keep_their_buffers_by_either_name_of_the_setting(
    since_2_13: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before torch 2.13 `broadcast_buffers` was the only name; since then it is deprecated, and warns."""
    name = "forward_sync_buffers" if since_2_13 else "broadcast_buffers"

    class Parallel(nn.Module):
        if since_2_13:

            def __init__(
                self, module: nn.Module, broadcast_buffers: Any = None, forward_sync_buffers: Any = None
            ) -> None:
                super().__init__()
                assert broadcast_buffers is None
                self.given = forward_sync_buffers
        else:

            def __init__(self, module: nn.Module, broadcast_buffers: Any = True) -> None:  # type: ignore[misc]
                super().__init__()
                self.given = broadcast_buffers

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", Parallel)
    assert distributed.parallel(nn.BatchNorm1d(2)).given is False, name


def test_private_names_of_torch_are_in_one_file() -> None:
    """Those of Python's own modules are known; a name given to getattr or hasattr counts too."""
    known = {"_replace", "_fields", "_asdict", "_exit", "_run_exitfuncs", "_shutdown", "__dict__"}
    known |= {"_actions", "_option_string_actions", "_check_value"}  # of argparse
    for path in Path(dlref.__file__).parent.rglob("*.py"):
        if path != Path(operators.__file__):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                private = isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr not in known
                assert not private or node.attr.startswith("__"), f"{path}:{node.lineno} uses {node.attr}"
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in ("getattr", "hasattr")
                ):
                    asked = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
                    assert not str(asked).startswith("_") or asked in {*known, "__file__"}, (
                        f"{path}:{node.lineno} asks for {asked}"
                    )


def test_the_compiler_takes_time_for_new_shapes_alone() -> None:
    torch.compiler.reset()
    clock = operators.CompileTime()
    double = torch.compile(lambda x: x * 2, backend="eager")
    times = []
    for rows in (3, 3, 4, 5, 3):  # the second shape is compiled for any number of rows
        double(torch.zeros(rows, 2))
        times.append(clock.take())
    torch.compiler.reset()
    assert [seconds > 0 for seconds in times] == [True, False, True, False, False]


def test_a_compiled_recurrent_layer_stays_whole() -> None:
    """Unrolled over 30 time steps its graph would have hundreds of operators, which take minutes to compile."""
    import torch._dynamo

    operators.keep_out_of_graphs()
    layers = RecurrentLayers("lstm", [6, 5], [0.0, 0.0])
    graphs = torch._dynamo.explain(lambda: layers(torch.zeros(2, 30, 6), layers.initial_state(2))[0].sum())()
    assert not [op for ops in graphs.ops_per_graph for op in ops if op is torch.lstm]


@pytest.mark.slow
def test_a_compiled_dropout_takes_inputs_of_any_layout() -> None:
    """Of several lengths, and with the batch as the second dimension of what is in memory."""
    torch.compiler.reset()
    operators.keep_out_of_graphs()
    plain = Dropout(0.5)
    compiled = torch.compile(plain)
    for length in (9, 12, 15):
        for x in (torch.randn(length, 3, 4).transpose(0, 1), torch.randn(3, length, 4)):
            torch.manual_seed(length)
            made = compiled(x)
            torch.manual_seed(length)
            torch.testing.assert_close(made, plain(x), rtol=0, atol=0)
    torch.compiler.reset()
