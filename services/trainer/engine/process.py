"""How the engine behaves as a child process: exit codes, its pipe, its signals, its parent."""

import ctypes
import gc
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TUNABLES = "GLIBC_TUNABLES"


class ExitCode(IntEnum):
    """What the exit status tells the parent, in addition to the last event."""

    OK = 0
    INVALID = 2
    """The job file or its data is at fault; another attempt would fail alike."""
    ERROR = 3
    OUT_OF_MEMORY = 4
    CHECKPOINT_REFUSED = 5
    """`resume_from` is damaged or belongs to another run; an older checkpoint may do."""
    DIVERGED = 6
    """The loss became infinite or no number; another attempt would do alike."""
    STOPPED = 75
    """Asked to stop by SIGTERM, and did so after a checkpoint (EX_TEMPFAIL of sysexits.h)."""


def ask_for_huge_pages() -> None:
    """Starts this program anew, as the same process, with glibc asking for huge pages.

    The tensors of a step come and go, and fresh memory is cleared page by page: with pages of
    2 MiB that is some hundred times fewer. glibc reads the wish when a program starts. An operator
    who sets GLIBC_TUNABLES, if only to nothing, has his way.
    """
    if sys.platform == "linux" and _TUNABLES not in os.environ:
        os.environ[_TUNABLES] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, sys.orig_argv)


class StopRequest:
    """Becomes true at the first SIGTERM."""

    def __init__(self) -> None:
        self.requested = False

    def listen(self) -> None:
        """Makes SIGTERM a request to stop after the current step."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True


def awaited_job() -> list[str]:
    """The arguments that this engine, which is warm by now, is given over standard input: a line of
    JSON with a `job_file` and an `environment` to add to its own. None where whoever keeps it wants
    it no more, or is gone."""
    line = sys.stdin.readline()
    if not line:
        return []
    told = json.loads(line)
    os.environ.update(told["environment"])
    return [told["job_file"]]


def claim_stdout() -> int:
    """Takes standard output for the events and returns its new descriptor.

    Descriptor 1 becomes a copy of standard error, so that whatever a library prints, from
    Python or from C, cannot end up between two events.
    """
    sys.stdout.flush()
    events = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return events


def die_with_parent() -> None:
    """Has the kernel kill this process when the thread that started it ends (Linux only)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before the kernel knew of our wish
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def collector_at_rest() -> Generator[None]:
    """For imports: of the million objects that they make hardly any is garbage, and to look for it
    takes a fifth of their time. What is there then lives to the end."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def quiet_libraries() -> None:
    """Silences what libraries always say, so that an engine's last words are about its end."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def read_threads(path: Path) -> int:
    """The job's number of threads, or 1 if that cannot be read: libraries want to know it before
    they are imported, and the job's faults are told by `read_job` afterwards."""
    try:
        threads: object = json.loads(path.read_bytes())["threads"]
    except (OSError, ValueError, KeyError, TypeError):
        return 1
    return threads if isinstance(threads, int) and threads > 0 else 1


def configure_libraries(threads: int) -> None:
    """Sets what the numeric and model libraries read once, at import. Call before importing them.

    No library may reach for the network, and none may vary its number of threads: the order of
    a sum, and so its last bits, depends on it.
    """
    os.environ.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TOKENIZERS_PARALLELISM="false",
        OMP_NUM_THREADS=str(threads),
        MKL_NUM_THREADS=str(threads),
        OMP_DYNAMIC="FALSE",
        MKL_DYNAMIC="FALSE",
        CUBLAS_WORKSPACE_CONFIG=":4096:8",  # workspaces of a fixed size, so that sums keep order
    )
