"""`python -m services.trainer.engine job.json`: runs one job and exits with an `ExitCode`."""

import faulthandler
import sys
import time
import traceback
from pathlib import Path

from services.trainer.engine.errors import (
    CheckpointRefused,
    Fault,
    InvalidData,
    InvalidJob,
    TrainingDiverged,
    is_out_of_memory,
)
from services.trainer.engine.events import EventPipe, Failed, NoEvents
from services.trainer.engine.process import (
    ExitCode,
    StopRequest,
    claim_stdout,
    configure_libraries,
    die_with_parent,
    quiet_libraries,
    read_threads,
)


def main(arguments: list[str]) -> ExitCode:
    faulthandler.enable()
    stop = StopRequest()
    stop.listen()
    die_with_parent()
    events = EventPipe(claim_stdout(), time.time)
    try:
        return _run(arguments, events, stop)
    except BrokenPipeError:  # whoever wanted the result is gone
        return ExitCode.ERROR
    except Exception as error:
        return _report_failure(error, events)


def _run(arguments: list[str], events: EventPipe, stop: StopRequest) -> ExitCode:
    if len(arguments) != 1:
        raise InvalidJob(Fault("", "usage: python -m services.trainer.engine job.json"))
    job_file = Path(arguments[0])
    configure_libraries(read_threads(job_file))
    quiet_libraries()

    from services.trainer.engine.job import read_job  # torch reads its settings at import
    from services.trainer.engine.loop import Ending
    from services.trainer.engine.run import run_job
    from services.trainer.engine.team import assembled

    job = read_job(job_file)
    with assembled(job.processes, job_file, job.work_dir) as team:
        sink = events if team.rank == 0 else NoEvents()
        ending = run_job(job, sink, stop, clock=time.monotonic, team=team)
    return ExitCode.OK if ending is Ending.COMPLETE else ExitCode.STOPPED


def _report_failure(error: Exception, events: EventPipe) -> ExitCode:
    failed, code = classify(error)
    if failed.kind == "error":
        traceback.print_exception(error)
    try:
        events.emit(failed)
    except BrokenPipeError:
        return ExitCode.ERROR
    return code


def classify(error: Exception) -> tuple[Failed, ExitCode]:
    """What the parent is told of an error: the event and the exit code."""
    if is_out_of_memory(error):
        return Failed("out_of_memory", str(error) or "out of memory"), ExitCode.OUT_OF_MEMORY
    match error:
        case InvalidJob():
            return Failed("invalid_job", str(error)), ExitCode.INVALID
        case InvalidData():
            return Failed("invalid_data", str(error)), ExitCode.INVALID
        case TrainingDiverged():
            return Failed("diverged", str(error)), ExitCode.DIVERGED
        case CheckpointRefused():
            return Failed("error", str(error)), ExitCode.CHECKPOINT_REFUSED
        case _:
            return Failed("error", f"{type(error).__name__}: {error}"), ExitCode.ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
