"""Runs a tool as a child process: hears its reports, passes its words on, ends it when asked to."""

import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.trainer.engine.process import StopRequest

REPORTS = "ANNEAL_REPORTS"
"""As in inside/anneal_reports.py, which is read by another interpreter."""

_GRACE_S = 10.0
"""A tool that is asked to end writes nothing that is of use: there is little to wait for."""
_PAUSE_S = 0.1
_CHUNK_BYTES = 1 << 16
_LINE_LIMIT_BYTES = 1 << 20
_LAST_LINES = 20

Take = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Watching:
    """What the reports are to be about: see inside/anneal_reports.py."""

    tool: str
    held_out_file: Path | None
    evaluate_every: int


@dataclass(frozen=True, slots=True)
class ToolExit:
    """How a tool ended: its exit status (negative: killed by that signal) and last words."""

    status: int
    last_lines: tuple[str, ...]


def run_tool(
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    watching: Watching,
    take_report: Take,
    stop: StopRequest,
) -> ToolExit:
    """Runs the tool in `directory` to its end; `take_report` gets each whole line of its reports.

    Whatever the tool prints goes to standard error. The tool does not outlive this call.
    """
    reports, writing = os.pipe()
    try:
        process = _started(command, directory, environment, watching, writing)
    finally:
        os.close(writing)
    try:
        words = _LastWords()
        lines = {reports: _Lines(take_report), _output(process): _Lines(words.take)}
        _listen(process, lines, stop)
        return ToolExit(process.wait(), tuple(words.lines))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(reports)
        if process.stdout is not None:
            process.stdout.close()


def _started(
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    watching: Watching,
    descriptor: int,
) -> "subprocess.Popen[bytes]":
    told = {
        "descriptor": descriptor,
        "tool": watching.tool,
        "held_out_file": None if watching.held_out_file is None else str(watching.held_out_file),
        "evaluate_every": watching.evaluate_every,
    }
    return subprocess.Popen(
        command,
        cwd=directory,
        env={**environment, REPORTS: json.dumps(told)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(descriptor,),
    )


def _output(process: "subprocess.Popen[bytes]") -> int:
    if process.stdout is None:
        raise RuntimeError("the tool was started without a pipe")
    return process.stdout.fileno()


def _listen(
    process: "subprocess.Popen[bytes]", lines: Mapping[int, "_Lines"], stop: StopRequest
) -> None:
    """Until both pipes have ended, or the tool has and nothing is left in them: helpers that it
    leaves behind may hold them open."""
    kill_at: float | None = None
    with selectors.DefaultSelector() as selector:
        for descriptor in lines:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            ended = process.poll() is not None
            ready = selector.select(_PAUSE_S)
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK_BYTES)
                lines[key.fd].feed(chunk)
                if not chunk:
                    selector.unregister(key.fd)
            if ended and not ready:
                return
            if stop.requested and kill_at is None:
                process.terminate()
                kill_at = time.monotonic() + _GRACE_S
            elif kill_at is not None and time.monotonic() >= kill_at:
                process.kill()


class _Lines:
    """Cuts a stream into lines; progress bars end theirs by a carriage return. What stands after
    the last end was cut by the writer's death, and is no line. A line that is too long is cut."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        *whole, self._rest = (self._rest + chunk).replace(b"\r", b"\n").split(b"\n")
        if len(self._rest) > _LINE_LIMIT_BYTES:
            whole.append(self._rest)
            self._rest = b""
        for line in whole:
            if line.strip():
                self._take(line)


class _LastWords:
    """Passes lines on to standard error and remembers the last ones."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=_LAST_LINES)

    def take(self, line: bytes) -> None:
        self.lines.append(line.decode(errors="replace").rstrip())
        sys.stderr.buffer.write(line + b"\n")
        sys.stderr.buffer.flush()
