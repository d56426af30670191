"""What of a host is free for another engine."""

import os
import subprocess
from collections.abc import Sequence
from itertools import takewhile

_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")
_PATIENCE_S = 10.0


class Room:
    """Places for so many engines, and the GPUs that they have among them: ids as CUDA has them,
    none on a host that trains on its CPU. Each engine has GPUs of its own."""

    def __init__(self, places: int, gpus: Sequence[str] = ()) -> None:
        self._free_places = places
        self._free_gpus = list(gpus)
        self._is_cpu = not gpus

    @property
    def free_devices(self) -> int:
        """How many devices another job could have; a CPU is one for each engine."""
        if not self._free_places:
            return 0
        return 1 if self._is_cpu else len(self._free_gpus)

    def take(self, device_count: int) -> tuple[str, ...]:
        """The GPUs of another engine."""
        self._free_places -= 1
        taken, self._free_gpus = self._free_gpus[:device_count], self._free_gpus[device_count:]
        return tuple(taken)

    def give_back(self, gpus: Sequence[str]) -> None:
        """What an engine that has ended had."""
        self._free_places += 1
        self._free_gpus += gpus


def visible_gpus() -> tuple[str, ...]:
    """Those that CUDA would show to this process; none where there is no driver."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        words = (word.strip() for word in told.split(","))
        return tuple(takewhile(lambda word: word not in ("", "-1"), words))  # as CUDA reads it
    try:
        listed = subprocess.run(
            _NVIDIA_SMI, capture_output=True, text=True, timeout=_PATIENCE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(listed.stdout.split())


def environment_of(gpus: Sequence[str]) -> dict[str, str]:
    """What an engine has to know of its place."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
