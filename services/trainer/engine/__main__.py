"""`python -m services.trainer.engine job.json`: runs one job and exits with an `ExitCode`.

With `--estimate` before the job file it trains nothing, and prints as one JSON object what the job
would take: see docs/memory.md. With `--warm THREADS` instead of a job file it imports what runs
need, and waits to be given one: see `awaited_job`.
"""

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import asdict
from importlib import import_module
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
    ask_for_huge_pages,
    awaited_job,
    claim_stdout,
    collector_at_rest,
    configure_libraries,
    die_with_parent,
    quiet_libraries,
    read_threads,
)

_IMPORTED_BY_RUNS = (
    "services.trainer.engine.run",
    "services.trainer.engine.team",
    "transformers.models.llama.modeling_llama",
    "peft",
    "pyarrow.parquet",
)


def main(arguments: list[str]) -> ExitCode:
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2)  # who finds it hanging asks where
    stop = StopRequest()
    stop.listen()
    die_with_parent()
    output = claim_stdout()
    events = EventPipe(output, time.time)
    try:
        if arguments[:1] == ["--estimate"]:
            return _estimate(arguments[1:], output)
        if arguments[:1] == ["--warm"]:
            _warm_up(threads=int(arguments[1]))
            arguments = awaited_job()
            if not arguments:
                return ExitCode.OK
        return _run(arguments, events, stop)
    except BrokenPipeError:  # whoever wanted the result is gone
        return ExitCode.ERROR
    except Exception as error:
        return _report_failure(error, events)


def _run(arguments: list[str], events: EventPipe, stop: StopRequest) -> ExitCode:
    job_file = _job_file(arguments)

    with collector_at_rest():
        import torch  # reads its settings at import

        from services.trainer.engine.job import read_job
        from services.trainer.engine.loop import Ending
        from services.trainer.engine.memory_limit import limit_memory, tensor_files_bytes
        from services.trainer.engine.run import run_job
        from services.trainer.engine.team import assembled

    job = read_job(job_file)
    with assembled(job.processes, job_file, job.work_dir) as team:
        if not torch.cuda.is_available():  # whose driver reserves far more than there is
            mapped = tensor_files_bytes(job.base_model_dir, job.start_from, job.resume_from)
            limit_memory(team.size, job.threads, mapped)
        sink = events if team.rank == 0 else NoEvents()
        ending = run_job(job, sink, stop, clock=time.monotonic, team=team)
    return ExitCode.STOPPED if ending is Ending.STOPPED and team.rank == 0 else ExitCode.OK


def _warm_up(threads: int) -> None:
    """Imports what most runs need, which takes seconds, while there is nothing else to do."""
    configure_libraries(threads)
    quiet_libraries()
    with collector_at_rest():
        for module in _IMPORTED_BY_RUNS:
            import_module(module)


def _estimate(arguments: list[str], output: int) -> ExitCode:
    job_file = _job_file(arguments)

    with collector_at_rest():
        from services.trainer.engine.job import read_job  # torch reads its settings at import
        from services.trainer.engine.preparation import prepare
        from services.trainer.engine.simulation.rehearsal import rehearse

    job = read_job(job_file)
    ready = prepare(job)
    runtime = rehearse(job, ready)

    # Now that it is measured what a run imports, what it does not.
    from services.trainer.engine.simulation.estimate import estimate

    found = asdict(estimate(job, ready, runtime))
    with os.fdopen(output, "w") as stream:
        print(json.dumps(found), file=stream)
    return ExitCode.OK


def _job_file(arguments: list[str]) -> Path:
    """Sets up what libraries want to know before they are imported. Raises InvalidJob."""
    if len(arguments) != 1:
        raise InvalidJob(
            Fault("", "usage: python -m services.trainer.engine [--estimate] job.json")
        )
    job_file = Path(arguments[0])
    configure_libraries(read_threads(job_file))
    quiet_libraries()
    return job_file


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
    ask_for_huge_pages()
    sys.exit(main(sys.argv[1:]))
