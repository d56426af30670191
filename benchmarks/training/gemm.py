"""How fast one core multiplies matrices in bfloat16: `python -m benchmarks.training.gemm`.

Prints GFLOP per CPU-second, the best of some seconds: what no training can exceed, whatever else
the machine does.
"""

import time

import torch

_SIDE = 2048
_SECONDS = 5.0


def main() -> None:
    torch.set_num_threads(1)
    left, right = (torch.randn(_SIDE, _SIDE).bfloat16() for _ in range(2))
    best_s, ends = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < ends:
        began = time.process_time()
        torch.mm(left, right.t())  # as a linear layer holds its weight
        best_s = min(best_s, time.process_time() - began)
    print(2 * _SIDE**3 / best_s / 1e9)


if __name__ == "__main__":
    main()
