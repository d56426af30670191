"""Watches a training process from outside: its steps, its time, its memory."""

import json
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_psutil: Any = psutil  # untyped package

ROOT = Path(__file__).resolve().parents[2]
WARM_UP_STEPS = 4
_GRACE_S = 60


class MeasurementFailed(Exception):
    """The process ended too early, hung, or trained on something else than it should."""


@dataclass(frozen=True, slots=True)
class DatasetSize:
    """What one pass over the data holds: tokens without padding, and how many the loss covers."""

    tokens: int
    labels: int


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was done at `time_s`, on `tokens` tokens without padding."""

    time_s: float
    tokens: int
    loss: float


@dataclass(frozen=True, slots=True)
class Observation:
    """All steps from the first. The clock ran from the end of the warm-up to the last step, the
    CPU clock over the process and those it started; `peak_rss_bytes` is the sum of their peaks."""

    steps: tuple[Step, ...]
    cpu_s: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class Window:
    """How long to watch after the warm-up: `seconds` at least, in whole cycles of steps, and
    never beyond `limit_s` seconds after the start."""

    seconds: float
    cycle_steps: int
    limit_s: float

    def is_over(self, steps: int, elapsed_s: float) -> bool:
        return steps > 0 and steps % self.cycle_steps == 0 and elapsed_s >= self.seconds


def observe(
    command: list[str],
    environment: Mapping[str, str],
    window: Window,
    dataset: DatasetSize,
    log_file: Path,
) -> Observation:
    """Starts the process, and ends it when the window is over. Its standard error goes to
    `log_file`. Raises MeasurementFailed."""
    with (
        log_file.open("wb") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env=environment, cwd=ROOT
        ) as process,
    ):
        limit = threading.Timer(window.limit_s, process.kill)
        limit.start()
        try:
            return _watch(process, window, dataset)
        except MeasurementFailed as failure:
            log.flush()
            end = log_file.read_text(encoding="utf-8", errors="replace")[-1500:]
            raise MeasurementFailed(f"{failure}\n{end}") from failure
        finally:
            limit.cancel()
            _end(process)


def _watch(process: "subprocess.Popen[bytes]", window: Window, dataset: DatasetSize) -> Observation:
    if process.stdout is None:
        raise MeasurementFailed("it was started without a pipe")
    steps: list[Step] = []
    cpu_began_s = 0.0
    for line in process.stdout:
        now_s = time.perf_counter()
        event = json.loads(line)
        if event["type"] == "started":
            _check_dataset(event, dataset)
        if event["type"] != "step":
            continue
        steps.append(Step(now_s, event["tokens"], event["loss"]))
        watched = len(steps) - WARM_UP_STEPS
        if watched == 0:
            cpu_began_s = _cpu_seconds(process.pid)
        elif watched > 0 and window.is_over(watched, now_s - steps[WARM_UP_STEPS - 1].time_s):
            cpu_s = _cpu_seconds(process.pid) - cpu_began_s
            return Observation(tuple(steps), cpu_s, _peak_rss_bytes(process.pid))
    raise MeasurementFailed(f"it ended or hung after {len(steps)} steps")


def _check_dataset(started: dict[str, Any], dataset: DatasetSize) -> None:
    """Our engine tells the tokens; that its labels are right is checked by `ours`."""
    seen = DatasetSize(started["tokens_per_epoch"], started.get("labels_per_epoch", dataset.labels))
    if seen != dataset:
        raise MeasurementFailed(f"it trains on {seen}, but should on {dataset}")


def _family(pid: int) -> list[Any]:
    root = _psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _cpu_seconds(pid: int) -> float:
    """Of the process and its descendants, those that have ended included."""
    clocks = [process.cpu_times() for process in _family(pid)]
    return sum(c.user + c.system + c.children_user + c.children_system for c in clocks)


def _peak_rss_bytes(pid: int) -> int:
    """VmHWM (proc(5)), summed: memory that several processes share counts for each of them."""
    status = [Path(f"/proc/{process.pid}/status").read_text() for process in _family(pid)]
    lines = [line.split() for text in status for line in text.splitlines()]
    return sum(int(line[1]) * 1024 for line in lines if line[0] == "VmHWM:")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
