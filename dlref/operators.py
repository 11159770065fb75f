"""Private operators of torch, each with the public path that replaces it. No other file of dlref uses private ones.

An installed torch that lacks one takes the public path. The times are of small networks (one thread, six tensors of at most
256 elements). Both paths give the same bits on a CPU, except for the backward pass of the softmax, which rounds differently.

    torch._foreach_norm                    torch.linalg.vector_norm of each tensor: 19 µs instead of 12
    torch._foreach_mul_, _lerp_, _add_     the method of each tensor: 12 µs instead of 5
    torch._fused_adam_, _fused_adamw_      the step of torch.optim.Adam and AdamW (`optimizers.adam`)
    torch._softmax_backward_data           its formula (`softmax_backward`)
    Tensor._indices, Tensor._coalesced_    Tensor.coalesce, which sorts the rows again
    torch.cpu._is_…_supported              assumed to be unsupported (`cpu_has`)
    torch._dynamo.callback_handler         time of compiling counts as time of training (`CompileTime`)
"""

import functools
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


def cpu_has(instructions: str) -> bool:
    """Whether the CPU has these instructions (`avx512`, `avx512_bf16`, `amx_tile`); false where torch does not say."""
    return bool(getattr(torch.cpu, f"_is_{instructions}_supported", lambda: False)())


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def as_float64(x: Tensor) -> Tensor:
    """The same in float64, or in float32 on MPS."""
    return x.to(widest(x.device))


def norms(tensors: list[Tensor]) -> list[Tensor]:
    """The Euclidean norm of each tensor."""
    if hasattr(torch, "_foreach_norm"):
        return list(torch._foreach_norm(tensors))
    return [torch.linalg.vector_norm(tensor) for tensor in tensors]


def multiply_(tensors: list[Tensor], factor: float | Tensor) -> None:
    """Multiply each tensor in place by a number, or by a scalar tensor on their device."""
    if isinstance(factor, Tensor):
        factor = factor.to(tensors[0].dtype)
    if hasattr(torch, "_foreach_mul_"):
        torch._foreach_mul_(tensors, factor)
        return
    for tensor in tensors:
        tensor.mul_(factor)


def add_(tensors: list[Tensor], others: list[Tensor], alpha: float) -> None:
    """Add `alpha` times the other tensor to each tensor in place."""
    if hasattr(torch, "_foreach_add_"):
        torch._foreach_add_(tensors, others, alpha=alpha)
        return
    for tensor, other in zip(tensors, others, strict=True):
        tensor.add_(other, alpha=alpha)


def interpolate_(tensors: list[Tensor], targets: list[Tensor], weight: float) -> None:
    """Linear interpolation in place: (1 − weight) tensor + weight target."""
    if hasattr(torch, "_foreach_lerp_"):
        torch._foreach_lerp_(tensors, targets, weight)
        return
    for tensor, target in zip(tensors, targets, strict=True):
        tensor.lerp_(target, weight)


def interpolated(tensors: list[Tensor], targets: list[Tensor], weight: float) -> list[Tensor]:
    """As `interpolate_`, but returns new tensors."""
    if hasattr(torch, "_foreach_lerp"):
        return list(torch._foreach_lerp(tensors, targets, weight))
    return [tensor.lerp(target, weight) for tensor, target in zip(tensors, targets, strict=True)]


def fused_adam(decoupled_weight_decay: bool) -> Callable[..., Any] | None:
    """The operator of torch's fused Adam or AdamW step, or None where it is absent."""
    return getattr(torch, "_fused_adamw_" if decoupled_weight_decay else "_fused_adam_", None)


def softmax_backward(grad_out: Tensor, probabilities: Tensor, dim: int) -> Tensor:
    """The gradient of a softmax's input: p (g − Σ p g), with the sum in float32 or better."""
    if hasattr(torch, "_softmax_backward_data"):
        return torch._softmax_backward_data(grad_out, probabilities, dim, probabilities.dtype)
    precise = torch.promote_types(probabilities.dtype, torch.float32)
    p, g = probabilities.to(precise), grad_out.to(precise)
    return (p * (g - (p * g).sum(dim, keepdim=True))).to(probabilities.dtype)


def coalesced(gradient: Tensor) -> Tensor:
    """A sparse gradient with each row once, without sorting rows that are in order already."""
    if hasattr(gradient, "_indices") and hasattr(gradient, "_coalesced_"):
        rows = gradient._indices()
        if len(rows) == 1 and bool((rows[0, 1:] > rows[0, :-1]).all()):  # autograd drops the flag that says so
            gradient._coalesced_(True)
    return gradient.coalesce()


RECURRENT: dict[Any, Any] = {torch.lstm: nn.LSTM, torch.gru: nn.GRU, torch.rnn_tanh: nn.RNN}


UNCOMPILED: list[list[Callable[..., Any]]] = []
F = TypeVar("F", bound=Callable[..., Any])


def uncompiled(function: F) -> F:
    """A decorator like `torch.compiler.disable` that loads the compiler only when `keep_out_of_graphs` is called."""
    called: list[Callable[..., Any]] = [function]
    UNCOMPILED.append(called)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return called[0](*args, **kwargs)

    return cast(F, call)


def keep_out_of_graphs() -> None:
    """Have compiled objectives call recurrent layers and what is decorated as `uncompiled` as they are.

    The compiler would unroll recurrent layers over all time steps, which takes it minutes.
    """
    import torch._dynamo  # late: it takes a second or two

    warnings.filterwarnings("ignore", message="Dynamo does not know how to trace the builtin")
    for call in RECURRENT:
        torch._dynamo.disallow_in_graph(call)
    while UNCOMPILED:
        called = UNCOMPILED.pop()
        called[0] = torch._dynamo.disable(called[0])


class CompileTime:
    """The seconds that torch's compiler takes: for the first batch, and for each batch of a new shape."""

    def __init__(self) -> None:
        import torch._dynamo

        self.seconds = self.started = 0.0
        if handler := getattr(torch._dynamo, "callback_handler", None):
            handler.register_start_callback(self.start)
            handler.register_end_callback(self.end)

    def start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def end(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self.started

    def take(self) -> float:
        """The seconds since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


@functools.cache
def has_kernel(call: Any, device: str, dtype: torch.dtype) -> bool:
    """Whether this machine can train a recurrent layer under autocast, found by trying: oneDNN has a bfloat16 LSTM only with
    AVX-512."""
    if device != "cpu":
        return True
    x = torch.zeros(1, 1, 1)
    state = (x, x) if call is torch.lstm else x
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), torch.autocast(device, dtype):
        weights = list(RECURRENT[call](1, 1).parameters())
        try:
            for training in (True, False):
                call(x, state, weights, True, 1, 0.0, training, False, True)[0].sum().backward()
        except RuntimeError:
            return False
    return True


def recurrent(call: Any, x: Tensor, state: Any, weights: list[Tensor], training: bool) -> Any:
    """`torch.lstm`, `torch.gru` or `torch.rnn_tanh` of one layer, batch first; in float32 where this machine has no kernel
    of autocast's format."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and not has_kernel(call, kind, torch.get_autocast_dtype(kind)):
        with torch.autocast(kind, enabled=False):
            return call(*widened((x, state, weights)), True, 1, 0.0, training, False, True)
    return call(x, state, weights, True, 1, 0.0, training, False, True)


def widened(value: Any) -> Any:
    """The same with half-precision tensors in float32."""
    if isinstance(value, Tensor | PackedSequence):
        return value.float() if value.data.dtype in (torch.bfloat16, torch.float16) else value
    return type(value)(map(widened, value)) if isinstance(value, list | tuple) else value
