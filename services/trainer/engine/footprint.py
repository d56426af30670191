"""How much memory this process holds, and has held."""

import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def peak_memory_bytes(device: torch.device) -> int:
    """The most that was held at once so far: on a GPU by tensors, on a CPU by the whole process,
    its program code and the files mapped into it included.

    (`ru_maxrss`, which others than Linux must do with, is never less than the parent's peak.)
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        return _status_bytes("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """What the process holds now (Linux only)."""
    return _status_bytes("VmRSS")


def data_bytes() -> int:
    """What RLIMIT_DATA counts: addresses of private writable memory, used or not (Linux only)."""
    return _status_bytes("VmData")


def _status_bytes(name: str) -> int:
    """A size from proc(5)'s status, which counts in units of 1024 bytes."""
    for line in _STATUS.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise KeyError(name)
