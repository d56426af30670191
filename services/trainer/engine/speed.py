"""`python -m services.trainer.engine.speed THREADS`: what an engine here would compute on, and how
fast that multiplies.

Prints one JSON object. `kind` is `cpu` or `cuda`; `model` and `memory_bytes` are a GPU's as its
driver tells them, empty and 0 for a CPU, of which the kernel knows more. `bfloat16_flops` and
`float32_flops` are the most floating-point operations a second that a product of two large square
matrices reached, with the arithmetic of a training, in about half a second each.
"""

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from services.trainer.engine.process import claim_stdout, configure_libraries, die_with_parent

if TYPE_CHECKING:
    import torch

_FIRST_SIDE = 256
_LARGEST_SIDE: Mapping[str, int] = {"cpu": 4096, "cuda": 8192}
"""200 MB of float32 on a CPU, 800 MB on a GPU."""
_LONG_ENOUGH_S = 0.02
"""A product of twice the side takes up to eight times as long."""
_TRIED_S = 0.1


def main(arguments: list[str]) -> int:
    die_with_parent()
    answer = claim_stdout()
    threads = int(arguments[0])
    configure_libraries(threads)
    os.write(answer, json.dumps(measured(threads)).encode() + b"\n")
    return 0


def measured(threads: int) -> dict[str, str | int | float]:
    """What is printed. Raises RuntimeError where torch cannot use the device that it found."""
    import torch  # reads its settings at import

    from services.trainer.engine.determinism import prepare_arithmetic

    prepare_arithmetic(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "kind": device.type,
        "model": properties.name if properties else "",
        "memory_bytes": properties.total_memory if properties else 0,
        "bfloat16_flops": _flops(torch.bfloat16, device, threads),
        "float32_flops": _flops(torch.float32, device, threads),
    }


def _flops(dtype: "torch.dtype", device: "torch.device", threads: int) -> float:
    """Doubles the side until a product takes long enough to be timed well: a device that has no
    instructions for the type must not be given one that takes minutes."""
    side = _FIRST_SIDE
    while (seconds := _product_s(side, dtype, device, threads)) < _LONG_ENOUGH_S:
        if side >= _LARGEST_SIDE[device.type]:
            break
        side *= 2
    return 2 * side**3 / seconds


def _product_s(side: int, dtype: "torch.dtype", device: "torch.device", threads: int) -> float:
    """The least that one took while there was time to try."""
    import torch

    left, right = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    least, ends = math.inf, time.perf_counter() + _TRIED_S
    while time.perf_counter() < ends:
        began = _now_s(device, threads)
        torch.mm(left, right.t())  # as a linear layer holds its weight
        least = min(least, _now_s(device, threads) - began)
    return least


def _now_s(device: "torch.device", threads: int) -> float:
    """When all that the device was given is done. On a CPU by the time that the threads had, which
    is not longer when other programs start at the same moment."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time() / threads


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
