"""The processes that train one job together, each on its share of every batch.

On a CPU several processes of one thread outrun as many threads of one process. They meet through
a file, and talk over the loopback device: one host is all they need.
"""

import os
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_distributed: Any = dist  # exports more than it declares

RANK = "ANNEAL_ENGINE_RANK"
"""The environment variable by which a helper process knows its number."""

_MEETING = ".team"
_MEETING_PATIENCE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Team:
    """Process `rank` of `size`; 0 leads, and alone speaks and writes."""

    rank: int = 0
    size: int = 1

    def sum(self, values: Tensor) -> None:
        """Adds up `values` over all processes, in place; every process gets the same bits."""
        if self.size > 1:
            dist.all_reduce(values)

    def leader_says(self, word: bool) -> bool:
        """What the leader says; the others' word does not count."""
        said = torch.tensor(float(word and self.rank == 0))
        self.sum(said)
        return said.item() > 0

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Adds up the gradients over all processes; one that is missing counts as 0."""
        if self.size == 1:
            return
        held = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in held]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for parameter, part in zip(held, flat.split([p.numel() for p in held]), strict=True):
            parameter.grad = part.view_as(parameter)


@contextmanager
def assembled(size: int, job_file: Path, work_dir: Path) -> Generator[Team]:
    """Starts the helper processes, unless this is one of them; they run the same job file.

    When the block ends without an exception the helpers have ended too; after one, or should this
    process be killed, they are killed.
    """
    if size == 1:
        yield Team()
        return
    rank = int(os.environ.get(RANK, "0"))
    meeting = work_dir / _MEETING
    if rank == 0:
        work_dir.mkdir(parents=True, exist_ok=True)
        meeting.unlink(missing_ok=True)  # of an earlier life
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    helpers = [_helper(number, job_file) for number in range(1, size)] if rank == 0 else []
    try:
        store = _distributed.FileStore(str(meeting), size)
        store.set_timeout(_MEETING_PATIENCE)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
        yield Team(rank, size)
        dist.destroy_process_group()
        for helper in helpers:
            helper.wait()
    finally:
        for helper in helpers:
            helper.kill()
            helper.wait()


def _helper(rank: int, job_file: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "services.trainer.engine", str(job_file)],
        env={**os.environ, RANK: str(rank)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
