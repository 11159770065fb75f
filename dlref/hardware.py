"""Where a network computes, the instruction set of this processor, and whether its hardware multiplies bfloat16."""

import itertools
import os

import torch
from torch import nn

from dlref import operators

LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # environment variables by which oneDNN uses fewer instructions


def device_and_dtype(net: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device and the floating-point type of a network's weights or buffers, in which it expects its input."""
    for tensor in itertools.chain(net.parameters(), net.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 natively; elsewhere it is emulated, on a CPU about 50 times as slow."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and instruction_set() in ("AMX", "AVX-512 BF16")


def instruction_set() -> str:
    """The newest instruction set of this CPU that matrix products use, else torch's name of the CPU's capability.

    `ONEDNN_MAX_CPU_ISA` limits oneDNN, which computes the products; formats of a newer set are then emulated.
    """
    limit = next((os.environ[name].upper() for name in LIMITS if name in os.environ), "DEFAULT")
    unlimited = limit in ("ALL", "DEFAULT")
    for name, flag, words in (
        ("AMX", "amx_tile", ("AMX",)),
        ("AVX-512 BF16", "avx512_bf16", ("AMX", "BF16", "FP16", "AVX10")),
        ("AVX-512", "avx512", ("AVX512", "AVX10")),
    ):
        if operators.cpu_has(flag) and (unlimited or any(word in limit for word in words)):
            return name
    capability = torch.backends.cpu.get_cpu_capability()
    return limit if capability == "AVX512" and not unlimited else capability
