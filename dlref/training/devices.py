"""Where to compute, in which number format, and how much of it fits."""

import contextlib
import ctypes
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dlref.errors import ConfigError, ResourceError

SMALLER = "lower data.batch_size, data.length or the network's width, or raise trainer.accumulate with a smaller batch"
logger = logging.getLogger("dlref")


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` (CUDA if there is any), `cpu`, `cuda` or `cuda:N`; raises ConfigError for what is not there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
    if name == "auto":
        name = "cuda" if count else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda" or (name.startswith("cuda:") and name[5:].isdigit()):
        index = local_rank if name == "cuda" else int(name[5:])
        if index < count:
            torch.cuda.set_device(index)
            torch.backends.cuda.enable_cudnn_sdp(
                False
            )  # which plans anew for each shape, and batches of lines have many
            return torch.device("cuda", index)
        raise ConfigError(f"device={name} is not there; this machine has {there}: write device=auto or one of these")
    raise ConfigError(f"device={name} is unknown; write auto, cpu, cuda or cuda:N (here: {there})")


def resolve(precision: str, device: torch.device, net: nn.Module | None = None) -> str:
    """What `auto` means here: bfloat16 where the hardware multiplies it natively, on a CPU only for a `net` with large
    products; else float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    if net is not None and not any(
        p.numel() >= 2**16 and min(p.shape[:2]) >= 64 for p in net.parameters() if p.ndim > 1
    ):
        return "float32"  # what small products save, the conversions take
    native = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return "bf16" if any(getattr(torch.cpu, name, lambda: False)() for name in native) else "float32"


def autocast(precision: str, device: torch.device) -> Callable[[], Any]:
    """A context in which large products run in bfloat16, if that is the precision."""
    if precision != "bf16":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)


def compile_in_place(objective: nn.Module, device: torch.device) -> bool:
    """Compile `objective` without renaming its parameters; without a compiler say so and leave it as it is."""
    if device.type == "cpu" and not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
        logger.warning("trainer.compile: there is no C++ compiler here (g++ or clang++), so the run goes on uncompiled")
        return False
    objective.compile()
    return True


def require_memory(build: Callable[[], nn.Module], device: torch.device | None) -> None:
    """Raise ResourceError before allocating a network that cannot be trained on `device`, or without one cannot be read.

    Counted: weights and buffers and, to train, gradients and two moments of each in the parameters' type; activations come
    on top.
    """
    copies, what, remedy = 4, "training this network", SMALLER
    if device is None:
        copies, what, remedy = 1, "this network", "use a machine that has them"
    try:
        with torch.device("meta"):
            net = build()
            parameters, buffers = (
                sum(t.numel() * t.element_size() for t in tensors) for tensors in (net.parameters(), net.buffers())
            )
    except (NotImplementedError, RuntimeError):  # a constructor that needs real numbers: nothing is known beforehand
        return
    needed, free = (copies * parameters + buffers) / 2**30, free_memory(device or torch.device("cpu")) / 2**30
    if needed > free:
        raise ResourceError(f"{what} takes {needed:,.1f} GiB or more and {free:,.1f} GiB are free; {remedy}")


def free_memory(device: torch.device) -> float:
    """Bytes that may still be allocated, or infinity where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = float("inf")
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024.0 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))
    with contextlib.suppress(OSError, ValueError):  # a container's limit
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    return free


def keep_memory() -> None:
    """Have the C library (glibc; elsewhere nothing happens) keep what is freed for the next step, until the process ends.

    It would give large blocks back to the system, which then fills them with zeros for the next step: a third of the time
    of a language model's.
    """
    trim, mapped = -1, -3  # M_TRIM_THRESHOLD, and M_MMAP_THRESHOLD, in bytes
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim, -1)
        mallopt(mapped, 2**30)


@contextlib.contextmanager
def flushed() -> Any:
    """A context in which numbers too small for their type's full precision are 0, on this thread and those it starts.

    A CPU takes many times as long for them, and the moments of a unit that is dead fade into them: Adam's step of a small
    network then takes ten times as long.
    """
    for dtype in (np.float32, np.float64):
        np.finfo(dtype)  # which NumPy looks up once, and would warn of
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextlib.contextmanager
def explained() -> Any:
    """Turns running out of memory into a ResourceError that says what to turn down."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ResourceError(f"out of memory ({(str(error).splitlines() or ['host'])[0][:120]}); {SMALLER}") from error
    except RuntimeError as error:  # the CPU allocator has no type of its own
        reason = str(error).partition("\n")[0].rpartition("Allocator: ")[2]
        if any(words in reason for words in ("can't allocate", "not enough memory", "size calculation overflowed")):
            raise ResourceError(f"out of memory ({reason[:120]}); {SMALLER}") from error
        raise
