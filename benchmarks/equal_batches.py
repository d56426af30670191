"""The losses of the engine beside those of transformers and PEFT alone, on equal batches:
`python -m benchmarks.equal_batches` (`--size 110m --steps 30`).

On the workload of `benchmarks.training`: the same initial weights, the same batches in the same
order, the same learning rates, no dropout. What differs is who computes.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.methods import run_engine, run_plain
from benchmarks.training.observation import ROOT
from benchmarks.training.ours import write_job
from benchmarks.training.sizes import SIZES, Size
from benchmarks.training.variants import LEARNING_RATE
from benchmarks.training.workload import Workload, write_workload

DIRECTORY = ROOT / "build" / "bench-equal-batches"
PRECISIONS = {"bfloat16": "bf16", "float32": "fp32"}
_SMOOTHED_STEPS = 10
_HELD_OUT = 0.05

Losses = Mapping[str, Sequence[float]]
"""Of each step, by side."""


def main() -> None:
    options = _options()
    size = SIZES[options.size]
    workload = write_workload(DIRECTORY / "workload", [size])
    losses: dict[str, Sequence[float]] = {}
    held_out: dict[str, float] = {}
    for precision, short in PRECISIONS.items():
        job_file = write_equal_job(workload, size, precision, options.steps)
        ours, plain = run_engine(job_file), run_plain(job_file)
        losses |= {f"anneal, {short}": ours.losses, f"plain, {short}": plain["losses"]}
        held_out |= {f"anneal, {short}": ours.loss, f"plain, {short}": plain["validation_loss"]}
    for line in table(losses):
        print(line)
    print(f"| held out | {' | '.join(f'{loss:.4f}' for loss in held_out.values())} |\n")
    for line in differences(losses, reference="plain, fp32"):
        print(line)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equal_batches", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="14m")
    parser.add_argument("--steps", type=int, default=100)
    return parser.parse_args()


def write_equal_job(workload: Workload, size: Size, precision: str, steps: int) -> Path:
    work_dir = workload.directory.parent / f"{size.name}-{precision}"
    path = write_job(
        workload, size, "anneal", work_dir, cores=1, learning_rate=LEARNING_RATE, seed=1
    )
    job = json.loads(path.read_text(encoding="utf-8"))
    job["training"] |= {
        "max_steps": steps,
        "precision": precision,
        "validation_fraction": _HELD_OUT,
    }
    path.write_text(json.dumps(job, indent=2), encoding="utf-8")
    return path


def table(losses: Losses) -> Iterator[str]:
    """Markdown: the mean loss of the ten steps up to each shown one."""
    yield f"| step | {' | '.join(losses)} |"
    yield f"| ---: |{' ---: |' * len(losses)}"
    steps = min(map(len, losses.values()))
    for end in range(_SMOOTHED_STEPS, steps + 1, _SMOOTHED_STEPS):
        means = (statistics.fmean(side[end - _SMOOTHED_STEPS : end]) for side in losses.values())
        yield f"| {end} | {' | '.join(f'{mean:.4f}' for mean in means)} |"


def differences(losses: Losses, reference: str) -> Iterator[str]:
    """Of the single steps, unsmoothed, the largest."""
    for name, side in losses.items():
        if name != reference:
            pairs = zip(side, losses[reference], strict=True)
            step, largest = max(
                ((step, abs(mine - theirs)) for step, (mine, theirs) in enumerate(pairs, 1)),
                key=lambda found: found[1],
            )
            yield f"{name}: at most {largest:.1e} nats from {reference}, at step {step}"


if __name__ == "__main__":
    main()
