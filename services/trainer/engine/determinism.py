"""Makes a run repeat itself bit for bit on the same machine."""

import hashlib
from typing import Any

import torch

_deterministic: Any = torch.utils.deterministic  # a module with a property, which is not typed


def derived_seed(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed for one purpose, unrelated to that of any other."""
    key = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) >> 1


def seed_randomness(seed: int, *purpose: int | str) -> None:
    """Seeds torch's generators on every device for what comes next.

    Done before each forward pass with the step in `purpose`, so that a dropout mask depends on
    the step and not on what was computed before it (an evaluation, an earlier life).
    """
    torch.random.manual_seed(derived_seed(seed, *purpose))


def prepare_arithmetic(threads: int) -> str:
    """Fixes the number of threads and the kernels; returns the matmul precision chosen. On a GPU
    every operation then has one order of its sums, or raises that it has no such kernel.

    Denormal numbers, below 1e-38, count as 0: some CPUs take 15 times as long for a product with
    one. "medium" lets float32 products run in oneDNN. On a CPU without AMX it keeps float32
    accuracy and, on AMD, is more than twice as fast as MKL; with AMX it would round to bfloat16.
    """
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    _warm_up_vector_math()
    torch.set_num_threads(threads)
    amx = torch.cpu.get_capabilities().get("amx_tile", False)
    cuda = torch.cuda.is_available()
    if cuda:
        _choose_repeatable_kernels()
    precision = "highest" if amx or cuda else "medium"
    torch.set_float32_matmul_precision(precision)
    return precision


def _choose_repeatable_kernels() -> None:
    """For CUDA, where kernels may add up in the order that their threads happen to come in: those
    of index_add, of gather's backward pass, and of fused attention's.

    With `warn_only` fused attention would keep to its faster kernel. Memory that nothing has been
    written to is not filled first, since nothing here reads it.
    """
    torch.use_deterministic_algorithms(True)
    _deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False


def _warm_up_vector_math() -> None:
    """MKL's vector functions race in their first call from several threads, which can return
    wrong low digits (pytorch#188792). One call each from a single thread avoids it."""
    x = torch.linspace(0.1, 0.9, 4096)
    for function in (torch.exp, torch.log, torch.sqrt, torch.rsqrt, torch.tanh, torch.sigmoid):
        function(x)
    for function in (torch.sin, torch.cos, torch.erf, torch.log1p, torch.expm1):
        function(x)
