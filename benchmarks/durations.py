"""`python -m benchmarks.durations`: tokens a second of each method, measured and in closed form.

Both in time of one core, so that others on the machine disturb them less.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.closed_form import cpu, proposal_of
from benchmarks.memory import METHODS, write_job
from benchmarks.training.observation import ROOT
from benchmarks.training.sizes import SIZES
from benchmarks.training.workload import write_workload
from services.trainer.control.domain.estimation.devices import Device
from services.trainer.control.domain.estimation.reading import Examples
from services.trainer.control.domain.estimation.throughput import tokens_per_second

DIRECTORY = ROOT / "build" / "bench-durations"
_WARM_UP_STEPS = 3


def main() -> int:
    options = _options()
    if options.job:
        print(json.dumps(_measured(Path(options.job))))
        return 0
    print("| size | method | measured | closed form | error |\n| --- | --- | --: | --: | --: |")
    for name in options.sizes:
        size = SIZES[name]
        workload = write_workload(DIRECTORY / "workload", [size], options.examples)
        examples = Examples(workload.examples, workload.tokens / workload.examples)
        for method in options.methods:
            job_file = write_job(workload, size, method, options)
            device = _core()  # each time: others on the machine come and go
            expected = tokens_per_second(proposal_of(job_file, examples, device))
            measured = float(_ran("benchmarks.durations", "--job", str(job_file)))
            cells = f"{measured:,.0f} | {expected:,.0f} | {expected / measured - 1:+.0%}"
            print(f"| {name} | {method} | {cells} |", flush=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durations", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.set_defaults(tokens=0, packing=False, checkpointing="off")
    return parser.parse_args()


def _core() -> Device:
    """As a node measures it."""
    told = json.loads(_ran("services.trainer.engine.speed", "1"))
    return cpu(told["bfloat16_flops"], told["float32_flops"])


def _ran(*command: str) -> str:
    """The last line that a program of ours prints."""
    whole = [sys.executable, "-m", *command]
    ran = subprocess.run(
        whole,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return ran.stdout.splitlines()[-1]


def _measured(job_file: Path) -> float:
    """Tokens a second of the CPU, in the steps after the first few."""
    from services.trainer.engine.events import Event, StepDone  # these bring torch
    from services.trainer.engine.job import read_job
    from services.trainer.engine.process import StopRequest
    from services.trainer.engine.run import run_job
    from services.trainer.engine.team import Team

    told: list[tuple[int, float]] = []

    class Notes:
        def emit(self, event: Event) -> None:
            if isinstance(event, StepDone):
                told.append((event.tokens, time.process_time()))

    job = read_job(job_file)
    steps_alone = replace(
        job.training, evaluate_every=0, checkpoint_every=0, validation_fraction=0.0
    )
    run_job(replace(job, training=steps_alone), Notes(), StopRequest(), time.monotonic, Team())
    return _rate(told)


def _rate(told: Sequence[tuple[int, float]]) -> float:
    tokens = sum(count for count, _ in told[_WARM_UP_STEPS:])
    return tokens / (told[-1][1] - told[_WARM_UP_STEPS - 1][1])


if __name__ == "__main__":
    sys.exit(main())
