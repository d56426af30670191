"""`python -m services.trainer.backends TOOL [--python PYTHON] job.json`: runs a job of the engine's
by the tool that PYTHON (default: this interpreter) has.

Speaks as the engine does: the job file, the events, the exit codes.
"""

import argparse
import faulthandler
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from services.trainer.backends.errors import (
    ToolDiverged,
    ToolFailed,
    ToolMissing,
    ToolOutOfMemory,
)
from services.trainer.backends.tools import Tool, missing
from services.trainer.engine.errors import Fault, InvalidData, InvalidJob
from services.trainer.engine.events import EventPipe, Failed
from services.trainer.engine.process import (
    ExitCode,
    StopRequest,
    claim_stdout,
    configure_libraries,
    die_with_parent,
    quiet_libraries,
    read_threads,
)


@dataclass(frozen=True, slots=True)
class Arguments:
    tool: str
    python: str
    job_file: Path


def main(arguments: list[str]) -> ExitCode:
    faulthandler.enable()
    stop = StopRequest()
    stop.listen()
    die_with_parent()
    events = EventPipe(claim_stdout(), time.time)
    try:
        return _run(_parse(arguments), events, stop)
    except BrokenPipeError:  # whoever wanted the result is gone
        return ExitCode.ERROR
    except Exception as error:
        return _report_failure(error, events)


def _run(arguments: Arguments, events: EventPipe, stop: StopRequest) -> ExitCode:
    tool = _tool(arguments.tool)
    reason = missing(tool, arguments.python)
    if reason is not None:
        raise ToolMissing(f"{tool} is not installed on this node: {reason}")
    configure_libraries(read_threads(arguments.job_file))
    quiet_libraries()

    from services.trainer.backends.run import Installed, run_job  # torch reads settings at import
    from services.trainer.engine.job import read_job

    job = read_job(arguments.job_file)
    done = run_job(Installed(tool, arguments.python), job, events, stop, clock=time.monotonic)
    return ExitCode.OK if done else ExitCode.STOPPED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidJob(Fault("", f"{message}; {self.format_usage().strip()}"))


def _parse(arguments: list[str]) -> Arguments:
    """Raises InvalidJob."""
    parser = _Parser(prog="python -m services.trainer.backends")
    parser.add_argument("tool")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("job_file", type=Path)
    return Arguments(**vars(parser.parse_args(arguments)))


def _tool(name: str) -> Tool:
    try:
        return Tool(name)
    except ValueError as error:
        known = ", ".join(Tool)
        raise InvalidJob(
            Fault("", f"there is no backend {name!r}; besides builtin there are {known}")
        ) from error


def _report_failure(error: Exception, events: EventPipe) -> ExitCode:
    failed, code = classify(error)
    if failed.kind == "error" and not isinstance(error, ToolFailed | ToolMissing):
        traceback.print_exception(error)
    try:
        events.emit(failed)
    except BrokenPipeError:
        return ExitCode.ERROR
    return code


def classify(error: Exception) -> tuple[Failed, ExitCode]:
    """What the parent is told of an error: the event and the exit code."""
    match error:
        case InvalidJob():
            return Failed("invalid_job", str(error)), ExitCode.INVALID
        case InvalidData():
            return Failed("invalid_data", str(error)), ExitCode.INVALID
        case ToolOutOfMemory():
            return Failed("out_of_memory", str(error)), ExitCode.OUT_OF_MEMORY
        case ToolDiverged():
            return Failed("diverged", str(error)), ExitCode.DIVERGED
        case ToolFailed() | ToolMissing():
            return Failed("error", str(error)), ExitCode.ERROR
        case _:
            return Failed("error", f"{type(error).__name__}: {error}"), ExitCode.ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
