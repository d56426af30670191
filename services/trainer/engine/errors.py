"""What can end a run, told apart by whose fault it is."""

import errno
import signal
from collections.abc import Sequence
from dataclasses import dataclass

_SHOWN_ROWS = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a job file; `field` is its dotted path, or "" for the whole file."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class InvalidJob(Exception):
    """The job cannot be run as it is written. `faults` holds everything found wrong with it."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


class InvalidData(Exception):
    """The dataset cannot be trained on with this base model's tokenizer and chat template."""


class CheckpointRefused(Exception):
    """The checkpoint is damaged, or was made by a run with other data or settings."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"checkpoint {path}: {reason}")
        self.path = path
        self.reason = reason


class TrainingDiverged(Exception):
    """A loss or a gradient is no longer a finite number; no update was made from it.

    `found` says which, `rows` are the rows of the dataset that it was computed from, from 0.
    """

    def __init__(self, step: int, found: str, rows: Sequence[int]) -> None:
        named = sorted(set(rows))  # several examples may come of one row
        shown = ", ".join(map(str, named[:_SHOWN_ROWS]))
        more = f" and {len(named) - _SHOWN_ROWS} more" if len(named) > _SHOWN_ROWS else ""
        super().__init__(
            f"step {step} has {found} on the rows {shown}{more} (from 0) of the dataset; the last "
            "checkpoint is kept. A lower learning rate, a longer warm-up or a look at these rows "
            "may help"
        )
        self.step = step


class OutOfMemory(Exception):
    """The memory does not even do for one example at a time, its activations computed twice."""


class HelperLost(Exception):
    """Process `rank` of those that train the job together has ended with this status (below 0: by
    a signal) before the training did."""

    def __init__(self, rank: int, status: int) -> None:
        super().__init__(f"process {rank} of the run {_ending(status)}")
        self.rank = rank
        self.status = status


def _ending(status: int) -> str:
    if status >= 0:
        return f"left with status {status}"
    name = signal.Signals(-status).name
    hint = " (the kernel does that when memory runs out)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


_FULL_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",  # the C library's words for ENOMEM, of a file that cannot be mapped
    "can't start new thread",  # whose stack found no place
    "failed to allocate",  # not even the small object that stands for a tensor
    "bad_alloc",
    "_status_alloc_failed",  # of cuBLAS, cuDNN and their like
    "could not create a memory object",  # oneDNN
)
_FULL_MEMORY_IN_ALL = ("could not create a primitive", "could not execute a primitive")
"""All that oneDNN says when it has no memory for a kernel. ("could not create a primitive
descriptor" is something else: there is no such kernel.)"""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine's or the accelerator's memory ran out.

    Torch raises a plain RuntimeError for the former, and for what an accelerator's libraries cannot
    allocate; only its text tells.
    """
    if isinstance(error, MemoryError | OutOfMemory):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    told = text in _FULL_MEMORY_IN_ALL or any(words in text for words in _FULL_MEMORY)
    return isinstance(error, RuntimeError) and told
