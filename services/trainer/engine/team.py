"""The processes that train one job together, each on its share of every batch.

On a CPU several processes of one thread outrun as many threads of one process. The first starts the
others then; they meet through a file, and talk over the loopback device: one host is all they need.
On GPUs, one for each process, `launch` starts them all, or torchrun itself does.
"""

import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from services.trainer.engine.errors import Fault, HelperLost, InvalidJob, OutOfMemory
from services.trainer.engine.process import ExitCode

_distributed: Any = dist  # exports more than it declares

RANK = "ANNEAL_ENGINE_RANK"
"""The environment variable by which a helper process knows its number."""

_MEETING = ".team"
_MEETING_PATIENCE = timedelta(minutes=5)
_LONGEST_WAIT = timedelta(minutes=30)
"""For each other: the leader may have a large checkpoint to write."""
_PAUSE_S = 0.05
_LAST_WORDS_S = 2.0
"""How long a process may take to be seen to have ended after its connections have."""


@dataclass(frozen=True, slots=True)
class Team:
    """Process `rank` of `size`; 0 leads, and alone speaks and writes. Those `in_step` have parts of
    one model, and call it as often as each other, each needing all others for that."""

    rank: int = 0
    size: int = 1
    in_step: bool = False

    def sum(self, values: Tensor) -> None:
        """Adds up `values` over all processes, in place; every process gets the same bits."""
        if self.size > 1:
            dist.all_reduce(values)

    def meet(self) -> None:
        """Waits until every process has come here."""
        self.sum(torch.zeros(1))

    def leader_says(self, word: bool) -> bool:
        """What the leader says; the others' word does not count."""
        said = torch.tensor(float(word and self.rank == 0))
        self.sum(said)
        return said.item() > 0

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Adds up the gradients over all processes; one that is missing counts as 0, but where no
        process has one there stays none, and the parameter as it is. (Those in step have added up
        theirs on the way.)"""
        if self.size == 1 or self.in_step:
            return
        held = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in held]
        present = torch.tensor([p.grad is not None for p in held]).to(gradients[0])
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), present])
        dist.all_reduce(flat)
        *sums, holders = flat.split([*(p.numel() for p in held), len(held)])
        for parameter, part, count in zip(held, sums, holders.tolist(), strict=True):
            parameter.grad = part.view_as(parameter) if count else None


@contextmanager
def assembled(size: int, job_file: Path, work_dir: Path) -> Generator[Team]:
    """Starts the helper processes, unless this is one of them; they run the same job file.

    When the block ends without an exception the helpers have ended too; after one, or should this
    process be killed, they are killed. Raises HelperLost or OutOfMemory if a helper's end is what
    ended the block, or kept the processes from meeting.

    Where torchrun started this process nothing is left to start, and it sees to the others' end.
    Raises InvalidJob if it did not start `size`.
    """
    if dist.is_torchelastic_launched():
        with _launched(size) as team:
            yield team
        return
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
        _gather(store, rank, helpers)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
        yield Team(rank, size)
        dist.destroy_process_group()
        for helper in helpers:
            helper.wait()
    except RuntimeError as error:
        if _tells_of_a_lost_connection(error):
            _blame_helpers(helpers, error)
        raise
    finally:
        for helper in helpers:
            helper.kill()
            helper.wait()


@contextmanager
def _launched(size: int) -> Generator[Team]:
    """By torchrun, which tells each process of its place by the environment."""
    rank, launched = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if launched != size:
        raise InvalidJob(Fault("processes", f"is {size}, but {launched} were launched"))
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=_LONGEST_WAIT)
    yield Team(rank, size)
    dist.destroy_process_group()


def _gather(store: Any, rank: int, helpers: "Sequence[subprocess.Popen[bytes]]") -> None:
    """Has the leader wait for all others, unless one ends instead."""
    if rank > 0:
        store.set(_place(rank), "taken")
        return
    places = [_place(number) for number, _ in enumerate(helpers, 1)]
    deadline = time.monotonic() + _MEETING_PATIENCE.total_seconds()
    while not store.check(places):
        _check_helpers(helpers)
        if time.monotonic() > deadline:
            raise TimeoutError("the processes of the run have not met")
        time.sleep(_PAUSE_S)


def _place(rank: int) -> str:
    return f"place/{rank}"


def _tells_of_a_lost_connection(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _blame_helpers(helpers: "Sequence[subprocess.Popen[bytes]]", error: RuntimeError) -> None:
    """Raises what `_check_helpers` does, from `error`, if one of them ends by now."""
    deadline = time.monotonic() + _LAST_WORDS_S
    while helpers and time.monotonic() < deadline:
        try:
            _check_helpers(helpers)
        except (HelperLost, OutOfMemory) as cause:
            raise cause from error
        time.sleep(_PAUSE_S)


def _check_helpers(helpers: "Sequence[subprocess.Popen[bytes]]") -> None:
    """Raises HelperLost or OutOfMemory if one has ended. Of several those that left with an error
    may have done so because another was gone."""
    ended = [(helper.poll(), rank) for rank, helper in enumerate(helpers, 1)]
    lost = [
        (status == ExitCode.ERROR, status, rank) for status, rank in ended if status is not None
    ]
    if not lost:
        return
    _, status, rank = min(lost)
    if status == ExitCode.OUT_OF_MEMORY:
        raise OutOfMemory(f"process {rank} of the run has no memory left")
    raise HelperLost(rank, status)


def _helper(rank: int, job_file: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "services.trainer.engine", str(job_file)],
        env={**os.environ, RANK: str(rank)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
