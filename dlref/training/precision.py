"""Number formats: which one `trainer.precision` means on this machine, autocast, and the loss scale of float16."""

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from dlref import operators
from dlref.hardware import instruction_set, multiplies_bf16

Precision = Literal["auto", "float32", "bf16", "fp16", "float64"]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(precision: str, device: torch.device, net: nn.Module | None = None) -> str:
    """The format that `auto` selects: half precision where the hardware multiplies it natively, else float32.

    On a CPU and with a `net`, only where it has a large matrix product. A CUDA device of compute capability 8 or higher
    takes bf16, one of 7 (V100, T4) fp16.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        if multiplies_bf16(device):
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability(device)[0] == 7 else "float32"
    if net is not None and not any(
        p.numel() >= 2**16 and min(p.shape[:2]) >= 64 for p in net.parameters() if p.ndim > 1
    ):
        return "float32"  # conversions cost what small products save
    return "bf16" if multiplies_bf16(device) else "float32"


def autocast(precision: str, device: torch.device) -> Callable[[], Any]:
    """A context in which large products run in half precision, if that is the precision.

    Layers for which this machine has no kernel of that format need `run_in_float32`.
    """
    if precision not in HALF:
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, HALF[precision])


def missing_kernels(precision: str, device: torch.device, module: nn.Module) -> list[nn.Module]:
    """The layers of `module` for which this machine has no kernel of `precision`."""
    if precision not in HALF:
        return []
    calls = {layer: call for call, layer in operators.RECURRENT.items()}
    return [
        part
        for part in module.modules()
        if type(part) in calls and not operators.has_kernel(calls[type(part)], device.type, HALF[precision])
    ]


def run_in_float32(precision: str, device: torch.device, module: nn.Module) -> None:
    """Have the layers without a kernel compute in float32 where they are called as modules.

    dlref's own recurrent layers call torch's functions, by way of `operators.recurrent`; this is for networks of others.
    """
    for layer in missing_kernels(precision, device, module):
        layer.forward = functools.partial(in_float32, layer.forward, device.type)


def in_float32(forward: Callable[..., Any], device: str, *inputs: Any, **named: Any) -> Any:
    """Call `forward` without autocast, with half-precision inputs in float32."""
    with torch.autocast(device, enabled=False):
        return forward(*operators.widened(inputs), **{name: operators.widened(value) for name, value in named.items()})


def notes(precision: str, device: torch.device, module: nn.Module) -> list[str]:
    """Notes for the start of a run: an emulated format, and layers that run in float32."""
    found = []
    emulated = instruction_set() != "AMX" if precision == "fp16" else not multiplies_bf16(device)
    if precision in HALF and device.type == "cpu" and emulated:
        found.append(
            f"{precision} is emulated on this CPU ({instruction_set()}), which is many times as slow as float32"
        )
    if layers := {type(layer).__name__ for layer in missing_kernels(precision, device, module)}:
        found.append(
            f"{', '.join(sorted(layers))} layers run in float32, because this CPU has no {precision} kernel for them"
        )
    return found


@dataclass
class LossScale:
    """The factor by which the loss is multiplied before the backward pass, so that small gradients do not vanish in float16
    (Micikevicius et al. 2018, section 3.2).

    It is halved when a gradient is infinite, and doubled after `interval` finite ones, as by torch.amp.GradScaler.
    """

    interval: ClassVar[int] = 2000  # updates
    largest: ClassVar[float] = 2.0**32  # above any scale at which a nonzero gradient is finite
    value: float = 2.0**16
    finite: int = 0  # updates since it was last changed

    def overflowed(self, loss: float, norm: float) -> bool:
        """Adapt to an update's gradient norm; whether to skip the update, because a smaller factor can make it finite."""
        used, finite = self.value, math.isfinite(norm)
        self.finite = self.finite + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self.finite == self.interval:
            self.value, self.finite = min(self.value * 2, self.largest), 0
        return not finite and math.isfinite(loss) and used > 1
