"""What each gain of the engine brings: `python -m benchmarks.engine_gains`.

LoRA steps on the 14 M Llama and the data of `benchmarks.training`, from transformers and PEFT
alone, by way of the engine with every switch off, to the engine as it is: each side has one more
gain than the one before it. A side is a process of one thread that trains for good, but waits after
each pass over the examples until it is its turn again. So all train on the same tokens, A B C and
then C B A.

Figures are tokens without padding a second of CPU time, medians of the rounds, the first of which
warms up; and the peak of the process's resident memory. All processes live to the end: where there
are no 20 GB for them ask for fewer `--sides`, by their numbers from 0.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, TextIO

from benchmarks.plain_recipe import load_run
from benchmarks.training.observation import ROOT
from benchmarks.training.ours import write_job
from benchmarks.training.sizes import SIZES, Size
from benchmarks.training.variants import LEARNING_RATE, environment
from benchmarks.training.workload import Workload, write_workload
from services.trainer.engine.events import Event, StepDone
from services.trainer.engine.fast import Switches
from services.trainer.engine.job import Job, read_job
from services.trainer.engine.process import StopRequest, claim_stdout, quiet_libraries
from services.trainer.engine.run import run_job
from services.trainer.engine.team import Team

DIRECTORY = ROOT / "build" / "bench-engine-gains"
SWITCHES = tuple(field.name for field in fields(Switches))
_SIZE = SIZES["14m"]
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_NO_HUGE_PAGES = {"GLIBC_TUNABLES": ""}


@dataclass(frozen=True, slots=True)
class Side:
    """The engine with these switches `on`, or without it if `plain`. `training` are settings of
    the job; `than` names the side with one gain less."""

    name: str
    than: str = ""
    on: tuple[str, ...] = ()
    plain: bool = False
    huge_pages: bool = False
    training: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True)
class Turn:
    """One pass over the examples."""

    tokens: int
    cpu_s: float
    wall_s: float
    peak_bytes: int


class Turns:
    """Makes a training wait for a line of `asked` before each pass over its examples, and tells of
    each in a line of `told`. Raises SystemExit when nothing more is asked."""

    def __init__(self, asked: TextIO, told: TextIO) -> None:
        self._asked, self._told = asked, told
        self._begin()

    def step(self, tokens: int, epochs: float) -> None:
        """Is told of each step: its tokens, and the passes that lie behind."""
        self._tokens += tokens
        if epochs.is_integer():
            turn = {
                "tokens": self._tokens,
                "cpu_s": time.process_time() - self._cpu_began_s,
                "wall_s": time.perf_counter() - self._began_s,
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
            print(json.dumps(turn), file=self._told, flush=True)
            self._begin()

    def emit(self, event: Event) -> None:
        """As the engine's sink of events."""
        if isinstance(event, StepDone):
            self.step(event.tokens, event.epoch)

    def _begin(self) -> None:
        if not self._asked.readline():
            raise SystemExit
        self._tokens = 0
        self._cpu_began_s, self._began_s = time.process_time(), time.perf_counter()


def main() -> None:
    options = _options()
    if options.job:
        _train(options)
        return
    workload = write_workload(DIRECTORY / "workload", [_SIZE], options.examples)
    ladder = [sides(_SIZE)[number] for number in options.sides]
    turns = _take_turns(ladder, workload, _SIZE, options.rounds)
    print(_heading())
    for line in table(ladder, turns):
        print(line)


def sides(size: Size) -> list[Side]:
    """From the usual way to everything."""
    usual = "transformers and PEFT, autocast to bfloat16"
    made = [
        Side("transformers and PEFT, float32", plain=True, training={"precision": "float32"}),
        Side(usual, than="transformers and PEFT, float32", plain=True),
        Side("the engine, everything off", than=usual),
    ]
    for count, name in enumerate(SWITCHES, 1):
        made.append(Side(f"+ {name}", than=made[-1].name, on=SWITCHES[:count]))
    all_on, whole = made[-1].name, "+ huge pages: the engine as it is"
    by_tokens = {"batch_tokens": size.tokens_a_step}
    packed: dict[str, object] = {"packing": True}
    as_they_come = tuple(name for name in SWITCHES if name != "group_by_length")
    return [
        *made,
        Side(whole, all_on, SWITCHES, huge_pages=True),
        Side("+ batch_tokens", whole, SWITCHES, huge_pages=True, training=by_tokens),
        Side(
            "+ batch_tokens and packing",
            "+ batch_tokens",
            SWITCHES,
            huge_pages=True,
            training=by_tokens | packed,
        ),
        Side(
            "+ packing instead of group_by_length",
            whole,
            as_they_come,
            huge_pages=True,
            training=packed,
        ),
    ]


def table(ladder: Sequence[Side], turns: Mapping[str, Sequence[Turn]]) -> Iterator[str]:
    """Rows of Markdown."""
    speeds = {name: [turn.tokens / turn.cpu_s for turn in taken] for name, taken in turns.items()}
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    first = medians[ladder[0].name]
    for side in ladder:
        mine, values = medians[side.name], speeds[side.name]
        cells = [
            side.name,
            f"{mine:,.0f}",
            f"{min(values):,.0f} to {max(values):,.0f}",
            f"{mine / medians[side.than]:.2f}" if side.than in medians else "",
            f"{mine / first:.2f}",
            f"{turns[side.name][-1].peak_bytes / 1e6:,.0f}",
        ]
        yield f"| {' | '.join(cells)} |"


def _heading() -> str:
    titles = "| | tokens a CPU-second | min to max | × one gain less | × the first | peak MB |"
    return f"{titles}\n| --- |{' ---: |' * 5}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine_gains", description=__doc__)
    every = range(len(sides(_SIZE)))
    parser.add_argument("--sides", type=int, nargs="+", choices=every, default=list(every))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=160)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _take_turns(
    ladder: Sequence[Side], workload: Workload, size: Size, rounds: int
) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {side.name: [] for side in ladder}
    with ExitStack() as stack:
        running = [
            (side.name, stack.enter_context(_start(side, write_side(side, workload, size))))
            for side in ladder
        ]
        for number in range(rounds + 1):
            for name, process in reversed(running) if number % 2 else running:
                turns[name].append(_turn(process))
        for _, process in running:
            process.communicate()
    return {name: taken[1:] for name, taken in turns.items()}


def write_side(side: Side, workload: Workload, size: Size) -> Path:
    """The job file."""
    work_dir = workload.directory.parent / side.name.replace("+ ", "").replace(" ", "_")
    path = write_job(
        workload, size, "anneal", work_dir, cores=1, learning_rate=LEARNING_RATE, seed=1
    )
    job = json.loads(path.read_text(encoding="utf-8"))
    job["training"] |= side.training
    job["switches"] = {name: name in side.on for name in SWITCHES}
    path.write_text(json.dumps(job, indent=2), encoding="utf-8")
    return path


def _start(side: Side, job_file: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.engine_gains", "--job", str(job_file)]
    pages = _HUGE_PAGES if side.huge_pages else _NO_HUGE_PAGES
    with job_file.with_name("log").open("w") as log:
        return subprocess.Popen(
            [*command, *(["--plain"] if side.plain else [])],
            cwd=ROOT,
            env={**environment(1), **pages},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


def _turn(process: "subprocess.Popen[str]") -> Turn:
    asked, told = _streams(process)
    print(file=asked, flush=True)
    line = told.readline()
    if not line:
        raise RuntimeError(f"{process.args} has ended; its log lies beside the job file")
    return Turn(**json.loads(line))


def _streams(process: "subprocess.Popen[str]") -> tuple[IO[str], IO[str]]:
    if process.stdin is None or process.stdout is None:
        raise ValueError("it was started without pipes")
    return process.stdin, process.stdout


def _train(options: argparse.Namespace) -> None:
    quiet_libraries()
    with os.fdopen(claim_stdout(), "w", encoding="utf-8") as told:
        train_in_turns(read_job(options.job), Turns(sys.stdin, told), plain=options.plain)


def train_in_turns(job: Job, turns: Turns, *, plain: bool) -> None:
    if not plain:
        run_job(job, turns, StopRequest(), time.monotonic, Team())
        return
    for step in load_run(job).steps():
        turns.step(step.tokens, step.epochs)


if __name__ == "__main__":
    main()
