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
    is_out_of_memory,
)
from services.trainer.engine.events import EventPipe, Failed
from services.trainer.engine.job import read_job
from services.trainer.engine.process import (
    ExitCode,
    StopRequest,
    claim_stdout,
    configure_libraries,
    die_with_parent,
    quiet_libraries,
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
    job = read_job(Path(arguments[0]))
    configure_libraries(job.threads)
    quiet_libraries()

    from services.trainer.engine.loop import Ending  # torch reads its settings at import
    from services.trainer.engine.run import run_job

    ending = run_job(job, events, stop, clock=time.monotonic)
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
        case CheckpointRefused():
            return Failed("error", str(error)), ExitCode.CHECKPOINT_REFUSED
        case _:
            return Failed("error", f"{type(error).__name__}: {error}"), ExitCode.ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
