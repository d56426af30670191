"""`python -m services.trainer.engine.launch N job.json`: runs one job in N engines, by torchrun.

Every engine gets its place from torchrun's agent, which this program is: see `team`. The first has
this program's standard output for its events. Nothing is started anew: if one process is lost the
others are ended, and the job goes on from its last checkpoint when it is run again.

torchrun's own exit status is 1 whatever happened. This program's is that of the engine, and if an
end was not explained by an event it adds one.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from services.trainer.engine.errors import HelperLost
from services.trainer.engine.events import EventPipe, Failed
from services.trainer.engine.process import (
    ExitCode,
    configure_libraries,
    die_with_parent,
    quiet_libraries,
    read_threads,
)

ENGINE = (sys.executable, "-P", "-m", "services.trainer.engine")

_PROC = Path("/proc")
_PATIENCE_S = 30
"""How long the others may take to end when one is lost: they may wait for a GPU's answer."""


def main(arguments: Sequence[str]) -> int:
    die_with_parent()
    processes, job_file = int(arguments[0]), Path(arguments[1])
    configure_libraries(read_threads(job_file))
    quiet_libraries()
    return launch(processes, (*ENGINE, str(job_file)), job_file.parent)


def launch(processes: int, program: Sequence[str], scratch_dir: Path) -> int:
    """Runs the program so many times, side by side, and passes on what it is told by signals.

    To be called by the main thread. Returns the exit status of the run.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, _pass_on)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    with TemporaryDirectory(dir=scratch_dir, prefix=".launch-") as logs_dir:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=str(os.getpid()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            signals_to_handle="SIGINT",  # not SIGTERM: the engines have a checkpoint to write
            shutdown_timeout=_PATIENCE_S,
            logs_specs=DefaultLogsSpecs(log_dir=logs_dir),
        )
        entrypoint, *rest = program
        try:
            elastic_launch(config, entrypoint)(*rest)
        except ChildFailedError as error:
            statuses = {rank: failure.exitcode for rank, failure in error.failures.items()}
            return verdict(statuses, EventPipe(sys.stdout.fileno(), time.time))
    return ExitCode.OK


def _pass_on(number: int, _frame: FrameType | None) -> None:
    """To the engines, which are in sessions of their own. Before there is one the run just ends."""
    told = list(_children())
    if not told and number == signal.SIGTERM:
        sys.exit(ExitCode.STOPPED)
    for child in told:
        os.kill(child, number)


def _children() -> Iterator[int]:
    for directory in _PROC.glob("[0-9]*"):
        try:
            status = (directory / "stat").read_text()
        except OSError:  # it has ended
            continue
        _, parent, *_ = status.rpartition(")")[2].split()
        if int(parent) == os.getpid():
            yield int(directory.name)


def verdict(statuses: Mapping[int, int], events: EventPipe) -> int:
    """Of processes that failed, in the order in which they were found. Those that left with an
    error may have done so because another was gone; the first has told of its own end."""
    causes = {rank: status for rank, status in statuses.items() if status != ExitCode.ERROR}
    of_the_first = statuses.get(0, ExitCode.OK)
    if of_the_first > 0 and (0 in causes or not causes):
        return of_the_first
    rank, status = next(iter((causes or statuses).items()))
    if status == ExitCode.OUT_OF_MEMORY:
        events.emit(Failed("out_of_memory", f"process {rank} of the run has no memory left"))
        return ExitCode.OUT_OF_MEMORY
    events.emit(Failed("error", str(HelperLost(rank, status))))
    return ExitCode.ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
