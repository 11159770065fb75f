"""Memory: how much is free, the peak of this process, and how the C library reuses it."""

import contextlib
import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import nn

from dlref.errors import ResourceError
from dlref.training.devices import SMALLER

CGROUP = Path("/sys/fs/cgroup")  # of Linux: the limit of this container


def require_memory(build: Callable[[], nn.Module], device: torch.device | None) -> None:
    """Raise ResourceError, before allocating, for a network that does not fit on `device` in training, or without one at all.

    This counts weights, buffers and, in training, gradients and two moments in the parameters' type, but no activations.
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
    except (
        NotImplementedError,
        RuntimeError,
    ):  # a constructor that needs real tensors: its memory is not known beforehand
        return
    needed, free = (copies * parameters + buffers) / 2**30, free_memory(device or torch.device("cpu")) / 2**30
    if needed > free:
        raise ResourceError(f"{what} takes {needed:,.1f} GiB or more and {free:,.1f} GiB are free; {remedy}")


def free_memory(device: torch.device) -> float:
    """Bytes that can still be allocated, or infinity where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = float("inf")
    if device.type != "cpu":
        with contextlib.suppress(AttributeError, RuntimeError):  # not every torch and not every backend can tell
            free = float(torch.accelerator.get_memory_info(device)[0])
        return free
    with contextlib.suppress(OSError, RuntimeError, ValueError, psutil.Error):  # where the system does not say
        free = float(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # "max" where the container has no limit
        limit = int((CGROUP / "memory.max").read_text(encoding="ascii"))
        free = min(free, limit - int((CGROUP / "memory.current").read_text(encoding="ascii")))
    return free


def peak_memory(device: torch.device) -> dict[str, float]:
    """The peak memory so far, in MiB."""
    peaks = {"memory_mib": peak_of_process()}
    if device.type == "cuda":
        peaks["gpu_memory_mib"] = torch.cuda.max_memory_allocated(device)
    return {name: round(value / 2**20, 1) for name, value in peaks.items()}


def peak_of_process() -> float:
    """The peak resident set size in bytes; the current one where the system does not keep the peak."""
    if sys.platform != "win32":
        with contextlib.suppress(ImportError):
            import resource  # late: not every system has it

            unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB elsewhere
            return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    now = psutil.Process().memory_info()
    return float(getattr(now, "peak_wset", now.rss))  # which Windows keeps


def keep_memory() -> None:
    """Have glibc keep freed memory for the next step until the process ends; does nothing with another C library.

    It would return large blocks to the system, which fills them with zeros for the next step. That takes a third of the time
    of a language model's step.
    """
    trim, mapped = -1, -3  # M_TRIM_THRESHOLD, and M_MMAP_THRESHOLD, in bytes
    # musl and macOS have no mallopt; Windows opens no library without a name.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim, -1)
        mallopt(mapped, 2**30)


def cores() -> dict[str, int | None]:
    """The numbers of physical cores (None where the system does not say) and of hardware threads."""
    return {"physical_cores": psutil.cpu_count(logical=False), "cores": psutil.cpu_count()}
