"""Data parallelism: torchrun's ranks, and the collective operations of training."""

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from dlref.errors import ConfigError, DlrefError, LostRankError, brief
from dlref.metrics import Mean, Totals

LAUNCH = ("WORLD_SIZE", "RANK", "LOCAL_RANK")  # what torchrun sets
T = TypeVar("T")
TIMEOUT = timedelta(minutes=5)  # how long a rank waits for the others before it gives up
left: list[Any] = []  # groups that this process was in, kept alive: see `group`


def launched(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """Rank, local rank and number of ranks that the launcher announces; raises ConfigError for one without a meeting point.

    Processes that do not know of each other would train separately and overwrite each other's results.
    """
    try:
        ranks, rank, local = (
            int(environment.get(n, default)) for n, default in zip(LAUNCH, ("1", "0", "0"), strict=True)
        )
    except ValueError:
        said = ", ".join(f"{name}={environment[name]}" for name in LAUNCH if name in environment)
        raise ConfigError(f"the launcher said {said}, which are not all numbers; start ranks with torchrun") from None
    if ranks > 1 and not all(name in environment for name in ("RANK", "MASTER_ADDR", "MASTER_PORT")):
        raise ConfigError(
            f"WORLD_SIZE is {ranks} but RANK, MASTER_ADDR or MASTER_PORT is missing; start ranks with torchrun"
        )
    if "WORLD_SIZE" not in environment:
        for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
            if int(environment.get(name, "1")) > 1:
                count = environment[name]
                raise ConfigError(
                    f"{count} processes were started by another launcher ({name}); use torchrun inside of it"
                )
    return rank, local, ranks


@contextmanager
def group(ranks: int, device: torch.device) -> Iterator[None]:
    """The process group, if there is more than one rank: gloo on the CPU, nccl on CUDA, else the device's own backend.

    Its destructor joins a thread while holding the GIL, which that thread may want to drop its last tensors. So a group
    is kept after its end, and a process that has `left` one ends without destructors (`dlref.cli.main`).
    """
    if ranks == 1:
        yield
        return
    if device.type == "mps":
        raise ConfigError(f"{ranks} ranks cannot share device=mps, which has no backend to communicate; set device=cpu")
    try:
        meet(ranks, device)
        yield
    except RuntimeError as error:  # what gloo and nccl raise when a peer has gone
        if any(word in str(error) for word in ("gloo", "NCCL", "Connection", "Timed out", "timed out")):
            reason = str(error).splitlines()[0][:160]
            raise LostRankError(
                f"another rank was lost ({reason}); resume from the last checkpoint with resume="
            ) from error
        raise
    finally:
        if dist.is_initialized():
            left.append(dist.group.WORLD)
            dist.destroy_process_group()


def meet(ranks: int, device: torch.device) -> None:
    """Raises LostRankError where not all are there within the time-out."""
    try:
        store, rank, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))
        # torchrun keeps its store when it starts ranks again, and the addresses of those that died with it. Of several
        # machines each counts its own starts, so that there the number would keep the ranks apart.
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT") if os.environ.get("GROUP_WORLD_SIZE") == "1" else None
        store = dist.PrefixStore(f"start {start}", store)
        backend = dist.get_default_backend_for_device(device)
        dist.init_process_group(backend, timeout=TIMEOUT, store=store, rank=rank, world_size=ranks)
    except RuntimeError as error:
        raise LostRankError(
            f"the {ranks} ranks did not meet ({brief(error)}); see that all were started, with one MASTER_ADDR and MASTER_PORT"
        ) from error


def parallel(objective: nn.Module) -> nn.Module:
    """The objective, its gradient averaged over the ranks if there are several.

    Buffers stay each rank's own while training: broadcasting them would also overwrite the state that a rank carries.
    """
    if not dist.is_initialized():
        return objective
    if dist.get_backend() == "nccl" and any(isinstance(m, nn.Embedding) and m.sparse for m in objective.modules()):
        raise ConfigError("several GPUs cannot sum sparse gradients; set network.sparse=false, or train on one")
    later = "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel).parameters  # torch 2.13
    settings: dict[str, Any] = {"forward_sync_buffers" if later else "broadcast_buffers": False}
    buffers = [buffer.clone() for buffer in objective.buffers()]
    wrapped = nn.parallel.DistributedDataParallel(objective, **settings)
    for buffer, value in zip(objective.buffers(), buffers, strict=True):  # the constructor has broadcast rank 0's
        buffer.copy_(value)
    return wrapped


def no_sync(model: nn.Module) -> Any:
    """A context in which a backward pass only accumulates gradients, without averaging them over the ranks."""
    return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()


def share_buffers(objective: nn.Module) -> None:
    """Broadcast rank 0's buffers (running statistics), so that all ranks evaluate the same network."""
    if dist.is_initialized():
        for buffer in objective.buffers():
            dist.broadcast(buffer, src=0)


def sum_over_ranks(totals: Totals, *numbers: float) -> tuple[Totals, list[float]]:
    """Totals and plain numbers, summed over all ranks by one all-reduce; a single process returns them as they are.

    All ranks need the same names.
    """
    if not dist.is_initialized():
        return totals, list(numbers)
    device = torch.device("cpu") if dist.get_backend() == "gloo" else torch.accelerator.current_accelerator()
    flat = [float(part) for mean in totals.values() for part in mean]
    message = torch.tensor([*flat, *numbers], dtype=torch.float64, device=device)
    dist.all_reduce(message)
    sums = message.tolist()
    return {name: Mean(sums[2 * i], int(sums[2 * i + 1])) for i, name in enumerate(totals)}, sums[len(flat) :]


def same_names(totals: Totals) -> Totals:
    """These totals, and empty ones under the names that only other ranks have: a rank may have had no batch at all."""
    if not dist.is_initialized():
        return totals
    names: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(names, list(totals))
    return {name: totals.get(name, Mean(0.0, 0)) for rank in names for name in rank}


def all_succeeded(mine: bool, device: torch.device) -> bool:
    """Whether an operation has succeeded on every rank; also a barrier."""
    if not dist.is_initialized():
        return mine
    failures = torch.tensor(int(not mine), device=device)
    dist.all_reduce(failures)
    return int(failures) == 0


@contextmanager
def together() -> Iterator[None]:
    """A context without collective operations; a DlrefError that one rank raises in it is raised on every rank.

    Any other exception ends its own rank, and the others by their time-out.
    """
    mine: DlrefError | None = None
    try:
        yield
    except DlrefError as error:
        mine = error
    failures: list[Any] = []
    if dist.is_initialized():
        failures = [None] * dist.get_world_size()
        dist.all_gather_object(failures, mine and (type(mine), str(mine)))
    if mine is not None:
        raise mine
    for kind, message in filter(None, failures):
        raise kind(message)


def agreed(what: str, value: T) -> T:
    """The value, which must be the same on all ranks; else raises ConfigError on every rank."""
    first = from_first(value)
    if sum_over_ranks({}, float(first != value))[1] != [0.0]:
        raise ConfigError(f"the ranks differ in {what}: rank 0 has {first}, this one {value}; set trainer.{what}")
    return value


def from_first(value: T) -> T:
    """Rank 0's value, on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
