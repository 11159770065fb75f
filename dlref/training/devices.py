"""Devices: the choice of one, its random state, compiling for it, and errors of the machine."""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dlref import filesystem, operators
from dlref.errors import ConfigError, ResourceError, brief

SMALLER = "lower data.batch_size, data.seq_len or the network's width, or raise trainer.accumulate with a smaller batch"
ACCELERATORS = ("cuda", "mps", "xpu", "hpu", "mtia")  # the types that `torch.accelerator` knows
# In the first line of errors of torch, oneDNN and drivers about what the machine cannot do.
OF_THE_MACHINE = (
    "could not create a primitive",
    "could not execute a primitive",
    "not implemented for 'BFloat16'",
    "not implemented for 'Half'",
    "no kernel image is available",
    "CUDA driver version is insufficient",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_SUPPORTED",
    "CUBLAS_STATUS_NOT_SUPPORTED",
    "CUBLAS_STATUS_ARCH_MISMATCH",
    "MPS backend",
)
logger = logging.getLogger("dlref")


def accelerators() -> list[str]:
    """The accelerators of this machine, as `cuda:0` or `mps:0`."""
    if not torch.accelerator.is_available():
        return []
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    return [f"{kind.type}:{index}" for index in range(torch.accelerator.device_count())]


def idle_accelerator(device: torch.device) -> str | None:
    """The first accelerator that is available while `device`, a CPU, is used."""
    return next(iter(accelerators()), None) if device.type == "cpu" else None


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of a name: `auto` (CUDA if there is any, else the CPU), `cpu`, or an accelerator that torch knows, such as
    `cuda`, `cuda:1`, `mps` or `xpu`. Raises ConfigError for one that is not there."""
    found = accelerators()
    kind, colon, index = name.partition(":")
    if name == "auto":
        kind = "cuda" if found and found[0].startswith("cuda") else "cpu"
    if kind == "cpu" and not colon:
        return torch.device("cpu")
    there = ", ".join(["cpu", *found])
    if kind not in ACCELERATORS or (colon and not index.isdecimal()):
        raise ConfigError(
            f"device={name} is unknown; write auto, cpu, {', '.join(ACCELERATORS)} or cuda:N (here: {there})"
        )
    chosen = f"{kind}:{int(index) if colon else 0 if kind == 'mps' else local_rank}"
    if chosen not in found:
        raise ConfigError(f"device={name} is not there; this machine has {there}: write device=auto or one of these")
    return torch.device(chosen)


def make_current(device: torch.device) -> None:
    """Make an accelerator the current one, and set it up; does nothing for a CPU."""
    if device.type == "cpu":
        return
    torch.accelerator.set_device_index(device.index)
    if device.type == "cuda":
        # cuDNN's attention plans again for each shape, and batches of lines have many.
        torch.backends.cuda.enable_cudnn_sdp(False)


def device_name(device: torch.device) -> str | None:
    """The accelerator's name as its driver gives it, its type where there is none; None for a CPU."""
    if device.type == "cpu":
        return None
    named = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(named(device)) if named else device.type


def random_state(device: torch.device) -> Tensor | None:
    """The state of an accelerator's random numbers; None for a CPU, whose state is torch's own."""
    if device.type == "cpu":
        return None
    module = torch.get_device_module(device)
    return module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)


def set_random_state(device: torch.device, state: Tensor | None) -> None:
    """Restore what `random_state` returned; does nothing for a CPU or None."""
    if device.type == "cpu" or state is None:
        return
    module = torch.get_device_module(device)
    module.set_rng_state(state) if device.type == "mps" else module.set_rng_state(state, device)


@contextlib.contextmanager
def forked_random(device: torch.device) -> Iterator[None]:
    """Save the random state of the CPU and of `device`, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        state = random_state(device)
        try:
            yield
        finally:
            set_random_state(device, state)


def compilers() -> list[str]:
    """The C++ compilers that torch would take: the one that `CXX` names, else those that are usual on this system."""
    usual = ["cl"] if filesystem.WINDOWS else ["g++", "clang++"]
    return os.environ.get("CXX", "").split()[:1] or usual


def cpp_compiler() -> str | None:
    """The path of the first of them that is installed."""
    return next(filter(None, map(shutil.which, compilers())), None)


def compile_in_place(objective: nn.Module, device: torch.device) -> operators.CompileTime | None:
    """Compile `objective` without renaming its parameters; returns a measure of the time that compiling takes.

    Without a compiler it warns and compiles nothing.
    """
    if device.type == "cpu" and not cpp_compiler():
        wanted = " or ".join(compilers())
        logger.warning("trainer.compile: there is no C++ compiler here (%s), so the run is not compiled", wanted)
        return None
    operators.keep_out_of_graphs()
    # In graphs with an uncompiled recurrent layer, code that torch 2.13 compiles for AVX-512 writes past its memory.
    is_recurrent = device.type == "cpu" and any(isinstance(layer, nn.RNNBase) for layer in objective.modules())
    objective.compile(options={"cpp.simdlen": 256} if is_recurrent else None)
    return operators.CompileTime()


@contextlib.contextmanager
def flushed() -> Any:
    """A context in which denormal numbers are flushed to 0, on this thread and those it starts.

    A CPU takes many times as long for them, and Adam's moments of a dead unit decay into them: the step of a small network
    then takes ten times as long.
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
    """A context in which errors for lack of memory, a kernel or a driver become a ResourceError with the remedy."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ResourceError(f"out of memory ({(str(error).splitlines() or ['host'])[0][:120]}); {SMALLER}") from error
    except RuntimeError as error:  # the CPU allocator has no type of its own
        reason = str(error).partition("\n")[0].rpartition("Allocator: ")[2]
        if any(words in reason for words in ("can't allocate", "not enough memory", "size calculation overflowed")):
            raise ResourceError(f"out of memory ({reason[:120]}); {SMALLER}") from error
        if any(words in str(error).partition("\n")[0] for words in OF_THE_MACHINE):
            raise ResourceError(
                f"this machine cannot compute that ({brief(error)}); set trainer.precision=float32 or device=cpu, and "
                "see dlref doctor"
            ) from error
        raise
